//! VMs of which a process of ours has a snapshot's disk open: that snapshot is not removed before the process has ended.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::id::Moref;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<BTreeMap<Moref, usize>>>);

/// One such process; over when dropped.
#[derive(Debug)]
pub struct Reader {
    readers: Readers,
    vm: Moref,
}

impl Readers {
    #[must_use]
    pub fn begin(&self, vm: &Moref) -> Reader {
        *self.all().entry(vm.clone()).or_default() += 1;
        Reader { readers: self.clone(), vm: vm.clone() }
    }

    #[must_use]
    pub fn has(&self, vm: &Moref) -> bool {
        self.all().contains_key(vm)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Moref, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut all = self.readers.all();
        if let Some(count) = all.get_mut(&self.vm) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.vm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_read_until_its_last_reader_has_ended() {
        let (readers, vm) = (Readers::default(), Moref::new("vm-1"));
        let (one, two) = (readers.begin(&vm), readers.begin(&vm));
        drop(one);
        assert!(readers.has(&vm) && !readers.has(&Moref::new("vm-2")));
        drop(two);
        assert!(!readers.has(&vm));
    }
}
