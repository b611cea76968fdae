//! Who may call what: one role for each rpc, the same that the comments of the protos tell (a test compares them). The roles of a
//! certificate are the agent's configuration and not here.
use std::{fmt, str::FromStr};

/// Each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks, and changes nothing.
    Reader,
    /// Backs up: jobs and sessions of its own.
    Operator,
    /// Changes the agent for everybody, and touches what others began.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Reader, Self::Operator, Self::Admin];

    /// As the configuration and the protos write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.name() == text);
        known.ok_or_else(|| format!("{text:?} is not reader, operator or admin"))
    }
}

/// The role that each rpc of `hotadd.v1` asks for, by its path in HTTP.
pub const RPCS: &[(&str, Role)] = &[
    ("/hotadd.v1.ProxyService/GetInfo", Role::Reader),
    ("/hotadd.v1.ProxyService/GetCapacity", Role::Reader),
    ("/hotadd.v1.ProxyService/Explain", Role::Reader),
    ("/hotadd.v1.ProxyService/WatchEvents", Role::Reader),
    ("/hotadd.v1.ProxyService/SetLimits", Role::Admin),
    ("/hotadd.v1.ProxyService/Drain", Role::Admin),
    ("/hotadd.v1.ProxyService/Reserve", Role::Operator),
    ("/hotadd.v1.DiskService/OpenDisks", Role::Operator),
    ("/hotadd.v1.DiskService/ReadDisk", Role::Operator),
    ("/hotadd.v1.DiskService/CloseDisks", Role::Operator),
    ("/hotadd.v1.DiskService/KeepAlive", Role::Operator),
    ("/hotadd.v1.DiskService/ListSessions", Role::Reader),
    ("/hotadd.v1.DiskService/ListDuties", Role::Reader),
    ("/hotadd.v1.JobService/BackupVm", Role::Operator),
    ("/hotadd.v1.JobService/GetJob", Role::Reader),
    ("/hotadd.v1.JobService/ListJobs", Role::Reader),
];

/// What gives back, or keeps what is open from being lost: never refused for a limit of the client, and not for want of an audit log. What a
/// client holds ends without a call, too: with its stream, its lease, its reservation's time. (Reserve of no slots is not here, since one
/// of many has the same path.)
pub const GIVES_BACK: &[&str] =
    &["/hotadd.v1.DiskService/CloseDisks", "/hotadd.v1.DiskService/KeepAlive", "/hotadd.v1.ProxyService/Drain"];

/// Whether this call is one of [`GIVES_BACK`].
#[must_use]
pub fn gives_back(path: &str) -> bool {
    GIVES_BACK.contains(&path)
}

/// Services of gRPC itself, whole: they tell what is there, and nothing of any VM.
const OF_GRPC: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// The role that a call of this path asks for. `None`: nobody has said, so nobody may.
#[must_use]
pub fn needed(path: &str) -> Option<Role> {
    let listed = RPCS.iter().find(|(rpc, _)| *rpc == path).map(|(_, role)| *role);
    listed.or_else(|| OF_GRPC.iter().any(|service| path.starts_with(service)).then_some(Role::Reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_contain_each_other_and_are_written_as_they_are_read() {
        assert!(Role::Reader < Role::Operator && Role::Operator < Role::Admin);
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        for wrong in ["", "Admin", "root", "reader "] {
            assert!(wrong.parse::<Role>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_gives_back_is_in_the_table_and_takes_nothing() {
        for path in GIVES_BACK {
            assert!(RPCS.iter().any(|(rpc, role)| rpc == path && *role > Role::Reader), "{path}");
        }
        // Said anew: a call that is renamed, or a new one of this kind, has to be thought about here.
        let ends = |path: &str| {
            ["Close", "Keep", "Drain", "Cancel", "End", "Stop", "Detach", "Remove"]
                .iter()
                .any(|word| path.contains(word))
        };
        for (path, _) in RPCS {
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(gives_back(path), ends(name), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_not_listed_is_nobodys() {
        assert_eq!(needed("/grpc.health.v1.Health/Check"), Some(Role::Reader));
        assert_eq!(needed("/hotadd.v1.ProxyService/Drain"), Some(Role::Admin));
        for path in
            ["", "/", "/hotadd.v1.ProxyService/", "/hotadd.v1.ProxyService/drain", "/x/grpc.health.v1.Health/Check"]
        {
            assert_eq!(needed(path), None, "{path}");
        }
    }
}
