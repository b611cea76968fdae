//! Looks for secrets in every byte of an archive: in names as in contents, in each usual form, within gzip within gzip. The test at its end shows
//! that it finds them.
use std::{fs, io::Read as _, path::Path};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use flate2::read::GzDecoder;

/// What is unpacked at most.
const MOST: u64 = 256 << 20;
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// gzip within gzip within gzip.
const LAYERS: u32 = 3;

/// A secret and its name for the failure.
pub type Canary = (String, String);

/// In each of these forms a canary is the canary.
pub fn forms(canary: &str) -> Vec<String> {
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent = |lower: bool| -> String {
        let code = |byte: u8| if lower { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
        let one = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { code(byte) };
        canary.bytes().map(one).collect()
    };
    let mut all = vec![canary.to_owned(), hex.to_uppercase(), hex, percent(true), percent(false)];
    all.push(percent(false).replace("%20", "+").replace("%2D", "-"));
    all.push(canary.escape_debug().to_string());
    all.push(serde_json::to_string(canary).unwrap_or_default().trim_matches('"').to_owned());
    all.push(canary.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
    // At each of the three places where it may stand; the characters that its neighbours change are left off.
    for shift in 0..3 {
        let bytes = [vec![0; shift], canary.as_bytes().to_vec()].concat();
        let whole = (shift * 8).div_ceil(6)..bytes.len() * 8 / 6;
        all.push(STANDARD_NO_PAD.encode(bytes)[whole].to_owned());
    }
    all
}

/// Fails at the first canary that is anywhere in the file, itself included.
pub fn none_in(archive: &Path, canaries: &[Canary]) -> Result<()> {
    let layers = layers(fs::read(archive)?);
    ensure!(layers.len() > 1, "{} is no gzip", archive.display());
    for (name, canary) in canaries {
        for form in forms(canary) {
            let found = layers.iter().find_map(|layer| place(layer, form.as_bytes()));
            ensure!(found.is_none(), "{name} is in the archive as {form}: {found:?}");
        }
    }
    Ok(())
}

/// The bytes, and what is behind every head of gzip in them, as far as it can be unpacked.
fn layers(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let (mut all, mut from) = (vec![bytes], 0);
    for _ in 0..LAYERS {
        let until = all.len();
        for at in from..until {
            let heads = all[at].windows(GZIP.len()).enumerate().filter(|(_, window)| *window == GZIP);
            let inner: Vec<Vec<u8>> = heads.filter_map(|(head, _)| unpacked(&all[at][head..])).collect();
            all.extend(inner);
        }
        from = until;
    }
    all
}

fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    // What was read before a fault counts, too.
    drop(GzDecoder::new(bytes).take(MOST).read_to_end(&mut out));
    (!out.is_empty()).then_some(out)
}

/// Some text around the first occurrence.
fn place(layer: &[u8], form: &[u8]) -> Option<String> {
    let at = layer.windows(form.len()).position(|window| window == form)?;
    let around = &layer[at.saturating_sub(60)..layer.len().min(at + form.len() + 20)];
    Some(String::from_utf8_lossy(around).into_owned())
}

mod tests {
    use std::process::Command;

    use super::*;

    const CANARY: &str = "a 'canary' & \"ä\"";

    fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::default()).read_to_end(&mut out)?;
        Ok(out)
    }

    fn archive(name: &str, content: &[u8]) -> Result<(tempfile::TempDir, std::path::PathBuf)> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("in"))?;
        fs::write(dir.path().join("in").join(name), content)?;
        let out = dir.path().join("out.tar.gz");
        let tar = Command::new("tar").arg("-czf").arg(&out).arg("-C").arg(dir.path()).arg("in").output()?;
        ensure!(tar.status.success(), "{tar:?}");
        Ok((dir, out))
    }

    fn finds(name: &str, content: &[u8]) -> Result<bool> {
        let (_dir, out) = archive(name, content)?;
        Ok(none_in(&out, &[("canary".into(), CANARY.into())]).is_err())
    }

    #[test]
    fn a_canary_is_found_wherever_it_hides() -> Result<()> {
        assert!(!finds("name", b"nothing, and a canary without quotes")?);
        for form in forms(CANARY) {
            assert!(finds("name", format!("x{form}y").as_bytes())?, "{form}");
        }
        for before in ["", "a", "ab", "user:"] {
            let text = STANDARD_NO_PAD.encode(format!("{before}{CANARY} and more"));
            assert!(finds("name", text.as_bytes())?, "{before}");
        }
        let packed = gzip(format!("x {CANARY}").as_bytes())?;
        let twice = [b"head ".to_vec(), gzip(&packed)?].concat();
        assert!(finds("name.gz", &packed)? && finds("name", &twice)?);
        assert!(finds(&format!("log-{CANARY}.txt"), b"")?, "in a file's name");
        Ok(())
    }
}
