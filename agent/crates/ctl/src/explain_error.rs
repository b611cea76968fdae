//! `explain-error`: the page of a code, or the list of all. Asks no agent: the pages are part of the program.
use hotadd_reasons::Args;
use serde_json::json;

use crate::output::Output;

pub(crate) fn run(args: &Args, out: &Output) {
    for page in args.pages() {
        let head = page.head();
        out.event(|| {
            json!({"event": "explain_error", "code": page.code, "meaning": head.meaning, "next_step": head.next_step,
                "told_by": head.told_by, "who": head.who, "evidence": page.section("Evidence"),
                "cause": page.section("Cause"), "fix": page.section("Fix"), "help": page.path()})
        });
    }
    out.answer(&args.text());
}
