//! Datastore paths of the form `[datastore] folder/file.vmdk`.

use std::fmt;

/// A datastore path, kept exactly as the server wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackingPath(String);

impl BackingPath {
    /// Takes a path as it is.
    pub fn new(text: impl Into<String>) -> BackingPath {
        BackingPath(text.into())
    }

    /// The path as the server wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Datastore name and path within it. `None` when the text is not a datastore path.
    ///
    /// The name ends at the first `] `, so brackets in folder names are part of the folder.
    pub fn parts(&self) -> Option<(&str, &str)> {
        let inner = self.0.strip_prefix('[')?;
        let (datastore, path) = inner.split_once("] ").or_else(|| inner.split_once(']'))?;
        (!datastore.is_empty()).then_some((datastore, path))
    }

    /// Datastore name.
    pub fn datastore(&self) -> Option<&str> {
        self.parts().map(|(d, _)| d)
    }

    /// Path within the datastore.
    pub fn path(&self) -> Option<&str> {
        self.parts().map(|(_, p)| p)
    }

    /// Folder within the datastore, without the file; empty at the top.
    pub fn folder(&self) -> Option<&str> {
        self.path().map(|p| p.rsplit_once('/').map_or("", |(folder, _)| folder))
    }

    /// File name without its folder.
    pub fn file(&self) -> Option<&str> {
        self.path().map(|p| p.rsplit_once('/').map_or(p, |(_, file)| file))
    }
}

impl fmt::Display for BackingPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::BackingPath;

    fn parts(text: &str) -> Option<(String, String)> {
        BackingPath::new(text).parts().map(|(a, b)| (a.to_owned(), b.to_owned()))
    }

    #[test]
    fn splits_at_the_first_closing_bracket_and_blank() {
        let p = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(parts("[ds1] web01/web01.vmdk"), p("ds1", "web01/web01.vmdk"));
        assert_eq!(parts("[a b] x [y] z/é&<>'\".vmdk"), p("a b", "x [y] z/é&<>'\".vmdk"));
        assert_eq!(parts("[ds%2f1] a%20b/c.vmdk"), p("ds%2f1", "a%20b/c.vmdk"));
        assert_eq!(parts("[ds]file.vmdk"), p("ds", "file.vmdk"));
        assert_eq!(parts("[ds]"), p("ds", ""));
        for bad in ["", "[", "[]", "[] x", "[ds", "ds] x", "/vmfs/volumes/x"] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn folder_and_file() {
        let path = BackingPath::new("[ds] a/b/c.vmdk");
        assert_eq!((path.folder(), path.file()), (Some("a/b"), Some("c.vmdk")));
        assert_eq!(BackingPath::new("[ds] c.vmdk").folder(), Some(""));
    }
}
