//! XML both ways: a bounded tree for answers, a small writer for requests. Knows nothing of vSphere.

mod tree;
mod write;

pub(crate) use tree::{Node, ParseError, Shape, parse};
pub(crate) use write::Writer;

#[cfg(test)]
mod tests;
