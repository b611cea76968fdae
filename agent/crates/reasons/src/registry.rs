//! The form of a registry whose codes have no gRPC code: those of the appliance, of hotaddctl, of the doctor and of the survey. The
//! agent's own has one for each code and stands beside it. Which codes there are is said there; none stands here.

/// A stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub id: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What a person can do.
    pub next: &'static str,
}

/// A constant for each code, and `ALL` of them in the order in which they are written:
/// `NAME = "HA-AREA-NNN", "what it means", "what a person can do";`. A code without a page does not compile. For crates below
/// agent/crates: the pages are found from there.
#[macro_export]
macro_rules! registry {
    ($($name:ident = $id:literal, $meaning:literal, $next:literal;)*) => {
        $(#[doc = $meaning] pub const $name: $crate::Code = $crate::Code { id: $id, meaning: $meaning, next: $next };)*
        // Read for the compiler's complaint alone; the pages that are shown are embedded once, by this crate.
        $(const _: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/reasons/", $id, ".md"));)*
        /// Every code, in order.
        pub const ALL: &[$crate::Code] = &[$($name),*];
    };
}

#[cfg(test)]
mod tests {
    use crate::Code;

    mod some {
        crate::registry! {
            FIRST = "HA-CTL-002", "wrong usage", "see --help";
            SECOND = "HA-CTL-001", "a defect", "report it";
        }
    }

    #[test]
    fn a_registry_holds_each_code_as_written_and_in_that_order() {
        let first = Code { id: "HA-CTL-002", meaning: "wrong usage", next: "see --help" };
        let second = Code { id: "HA-CTL-001", meaning: "a defect", next: "report it" };
        assert_eq!((some::FIRST, some::SECOND), (first, second));
        assert_eq!(some::ALL, [first, second]);
    }
}
