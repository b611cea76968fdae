//! Logging: native journal fields under systemd (SESSION, VM, DISK, BACKING, OP, DURATION_MS, REASON and every other
//! field of an event or of the spans around it), stderr elsewhere. `systemd-journal-logger` writes `log` records; the
//! layer here turns tracing events into such records without flattening their fields into text.
use std::{collections::BTreeMap, fmt};

use anyhow::Context as _;
use log::Log as _;
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::Context, layer::SubscriberExt as _, registry::LookupSpan};

/// Installs the subscriber. `default_level`: used unless `HOTADD_LOG` names filters.
///
/// # Errors
/// When a subscriber is installed already or the journal's socket can't be opened.
pub fn init(default_level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("HOTADD_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    // Whatever else is filtered, the audit log is not.
    let filter = filter.add_directive("audit=info".parse().context("filter")?);
    let registry = Registry::default().with(filter);
    if connected_to_journal() {
        let journal = JournalLog::new().context("journald's socket")?.with_syslog_identifier("hotadd-agent".into());
        tracing::subscriber::set_global_default(registry.with(JournalLayer { journal }))?;
    } else {
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        tracing::subscriber::set_global_default(registry.with(layer))?;
    }
    Ok(())
}

struct JournalLayer {
    journal: JournalLog,
}

/// Fields by name; later ones (inner spans, the event) win.
#[derive(Default, Clone)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl log::kv::Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn log::kv::VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        for (name, value) in &self.0 {
            visitor.visit_pair(log::kv::Key::from_str(name), log::kv::Value::from(value.as_str()))?;
        }
        Ok(())
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.clone());
            }
        }
        event.record(&mut fields);
        let message = with_cause(fields.0.remove("message").unwrap_or_default(), &fields.0);
        let meta = event.metadata();
        self.journal.log(
            &log::Record::builder()
                .args(format_args!("{message}"))
                .level(level(*meta.level()))
                .target(meta.target())
                .file(meta.file())
                .line(meta.line())
                .key_values(&fields)
                .build(),
        );
    }
}

/// `journalctl` shows messages, not fields: the cause belongs into the message.
fn with_cause(message: String, fields: &BTreeMap<&'static str, String>) -> String {
    match fields.get("error").or_else(|| fields.get("why")) {
        Some(cause) if !message.contains(cause.as_str()) => format!("{message}: {cause}"),
        _ => message,
    }
}

fn level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_message_once() {
        let told = |message: &str, fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            with_cause(message.to_owned(), &fields)
        };
        assert_eq!(told("not settled yet", &[("why", "busy"), ("tries", "3")]), "not settled yet: busy");
        assert_eq!(told("it failed: busy", &[("error", "busy")]), "it failed: busy");
        assert_eq!(told("detached", &[("disks", "1")]), "detached");
    }
}
