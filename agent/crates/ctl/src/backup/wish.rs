//! What of the disks was wanted, and whether what the agent came to may answer that: it may read more than was asked,
//! never less.
use hotadd_api::{
    manifest::{self, DiskRecord, Manifest},
    v1::{BackupVmRequest, DiskFacts, DiskOpened, Scope},
};
use uuid::Uuid;

use super::{areas::Areas, base::Base, judge::Asked, report};
use crate::{cli::BackupArgs, error::Failure, output::Output};

#[derive(Debug)]
pub(super) struct Wish {
    scope: Scope,
    base: Option<Base>,
    seed: u64,
    tracking: bool,
}

impl Wish {
    /// Reads the base. The target folder exists.
    ///
    /// # Errors
    /// Exit 2.
    pub(super) fn new(args: &BackupArgs, asked: &Asked, out: &Output) -> Result<Self, Failure> {
        let seed = args.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0.max(1));
        let load = |(path, folder)| Base::load(path, folder, seed, |key| asked.wants(key), out);
        let base = args.base.as_deref().zip(args.out.as_deref()).map(load).transpose()?;
        let scope = match (&base, args.allocated) {
            (Some(_), _) => Scope::Changed,
            (None, true) => Scope::Allocated,
            (None, false) => Scope::Unspecified,
        };
        if scope != Scope::Unspecified {
            out.line(&format!("samples are drawn with --seed {seed}"));
        }
        Ok(Self { scope, base, seed, tracking: args.enable_change_tracking })
    }

    pub(super) fn ask(&self, request: BackupVmRequest) -> BackupVmRequest {
        BackupVmRequest {
            scope: self.scope.into(),
            bases: self.base.as_ref().map(Base::disks).unwrap_or_default(),
            enable_change_tracking: self.tracking,
            sample_seed: if self.scope == Scope::Unspecified { 0 } else { self.seed },
            ..request
        }
    }

    pub(super) fn check_vm(&self, moref: &str) -> Result<(), Failure> {
        self.base.as_ref().map_or(Ok(()), |base| base.check_vm(moref))
    }

    /// What is to come of a disk that is opened for the first time.
    pub(super) fn areas(&self, facts: &DiskFacts, opened: &DiskOpened, block: u32) -> Result<Areas, Failure> {
        let name = report::disk_name(facts);
        let refuse = |why: String| Failure::contract(format!("{name}: {why}"));
        let areas =
            Areas::told(opened.map.as_ref(), facts.capacity_bytes, block).map_err(|flaw| refuse(flaw.to_string()))?;
        let allowed = match areas.scope() {
            manifest::Scope::Whole => true,
            manifest::Scope::Allocated => matches!(self.scope, Scope::Allocated | Scope::Changed),
            manifest::Scope::Changed => {
                let base = self.base.as_ref();
                base.is_some_and(|base| base.allows(facts.device_key, &facts.uuid, facts.capacity_bytes))
            }
        };
        if !allowed {
            return Err(refuse(format!(
                "it is read as {}, which was not asked for or has no base",
                areas.scope().name()
            )));
        }
        if opened.map.is_some() && opened.bytes_required != areas.total() {
            let (due, told) = (areas.total(), opened.bytes_required);
            return Err(refuse(format!("{told} bytes are announced, its map names {due}")));
        }
        Ok(areas)
    }

    pub(super) fn describe(&self, record: &mut DiskRecord) {
        self.base.iter().for_each(|base| base.describe(record));
    }

    pub(super) fn name_base(&self, manifest: &mut Manifest) {
        self.base.iter().for_each(|base| base.name(manifest));
    }
}
