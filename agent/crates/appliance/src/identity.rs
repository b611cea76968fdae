//! Which virtual machine this is, from its firmware: a copy has another identity. Pure but for two reads.
use std::{fs, path::Path};

/// The serial number as vSphere makes it of the BIOS UUID: unlike `product_uuid` it does not depend on the byte order that a version of the
/// virtual hardware or of the kernel shows. Anything else: the UUID.
#[must_use]
pub fn of(sys: &Path) -> Option<String> {
    let read = |name: &str| {
        let text = fs::read_to_string(sys.join("class/dmi/id").join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    read("product_serial").filter(|serial| serial.starts_with("VMware-")).or_else(|| read("product_uuid"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_serial_of_vsphere_is_preferred() {
        let sys = tempfile::tempdir().unwrap();
        let dmi = sys.path().join("class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        assert_eq!(of(sys.path()), None);
        fs::write(dmi.join("product_uuid"), "e05d1c42\n").unwrap();
        fs::write(dmi.join("product_serial"), "None\n").unwrap();
        assert_eq!(of(sys.path()).as_deref(), Some("e05d1c42"));
        fs::write(dmi.join("product_serial"), "VMware-42 1c\n").unwrap();
        assert_eq!(of(sys.path()).as_deref(), Some("VMware-42 1c"));
    }
}
