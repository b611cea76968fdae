"""Reads what a collector was sent by OpenTelemetry's own messages (opentelemetry-proto), and holds it to their rules: every field is known,
every id has its length, every span but the root has a parent, nothing ends before it begins. Usage: check_trace.py FILE JOB-ID"""
import sys, uuid

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

STAGES = ["preflight", "snapshot", "attach", "read", "detach", "remove snapshot"]


def unknown(message):
    """Fields that the published messages do not have, at any depth."""
    found = [field.field_number for field in UnknownFieldSet(message)]
    for field, value in message.ListFields():
        if field.message_type is None: continue
        for below in value if not hasattr(value, "ListFields") else [value]: found += unknown(below)
    return found


def told(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


request = ExportTraceServiceRequest()
with open(sys.argv[1], "rb") as f: request.ParseFromString(f.read())
assert not unknown(request), unknown(request)
(of,) = request.resource_spans
assert told(of.resource.attributes)["service.name"] == "hotadd-agent", of.resource
(scope,) = of.scope_spans
assert scope.scope.name == "hotadd-agent" and scope.scope.version, scope.scope
spans = {span.span_id: span for span in scope.spans}
assert len(spans) == len(scope.spans), "an id twice"
(root,) = [span for span in scope.spans if not span.parent_span_id]
assert root.name == "job" and root.kind == Span.SPAN_KIND_SERVER and root.status.code == Status.STATUS_CODE_OK, root
assert told(root.attributes)["hotadd.job.id"] == sys.argv[2] == str(uuid.UUID(bytes=root.trace_id)), root
for span in spans.values():
    assert span.trace_id == root.trace_id and len(span.trace_id) == 16 and len(span.span_id) == 8, span
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
    assert span is root or span.parent_span_id in spans, span
    assert span.name and all(pair.key and pair.value.WhichOneof("value") for pair in span.attributes), span
stages = sorted((s for s in spans.values() if s.parent_span_id == root.span_id), key=lambda s: s.start_time_unix_nano)
assert [stage.name for stage in stages] == STAGES, stages
tasks = [span for span in spans.values() if span.kind == Span.SPAN_KIND_CLIENT]
assert tasks and all(told(task.attributes)["hotadd.vcenter.task"] for task in tasks), tasks
