//! The named packets of `dataplane/tests/corpus` as inputs of the target `frames`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::shell;

/// Settings number 0, and a frame with 20 bytes of room and no tag, as the target reads them.
const HEAD: [u8; 3] = [0, 1, 0];
/// Likewise, and the frame is aimed at a VIP, whose number stands for the last byte.
const AIMED: [u8; 2] = [0, 0x81];
/// VIPs that frames are aimed at; there are fewer.
const VIPS: u8 = 64;
/// Changes of the services, one after the other; there are fewer.
const CHANGES: usize = 7;
/// One more change before a frame, in the first byte of its length.
const CHANGE: u8 = 1 << 5;
/// Longest frame that is aimed at every VIP.
const SHORT: usize = 120;

/// Writes an input for each packet, and some aimed at each VIP.
pub(super) fn write(folder: &Path) -> Result<()> {
    let corpus = shell::root().join("dataplane/tests/corpus");
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(&corpus).with_context(|| corpus.display().to_string())? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let frame = frame(&text).with_context(|| format!("{}: not hex", path.display()))?;
        let name = path.file_stem().unwrap_or_default();
        fs::write(folder.join(name), input(&HEAD, &frame))?;
        if let Some(kind) = kind(&frame).filter(|_| frame.len() <= SHORT) {
            kinds.insert(kind, frame);
        }
    }
    for (kind, frame) in kinds {
        for vip in 0..VIPS {
            let [settings, control] = AIMED;
            let once = input(&[settings, control, vip], &frame);
            fs::write(folder.join(format!("aimed-{kind:?}-{vip}")), &once)?;
            // The same flow while all changes.
            let mut again = once[1..].to_vec();
            again[2] |= CHANGE;
            let always = [once, again.repeat(CHANGES)].concat();
            fs::write(folder.join(format!("changes-{kind:?}-{vip}")), always)?;
        }
    }
    Ok(())
}

fn input(head: &[u8], frame: &[u8]) -> Vec<u8> {
    [head, &(frame.len() as u16).to_be_bytes(), frame].concat()
}

/// IP version and protocol, of TCP and UDP.
fn kind(frame: &[u8]) -> Option<(u8, u8)> {
    let (version, protocol) = match frame.get(12..14)? {
        [0x08, 0x00] => (4, *frame.get(23)?),
        [0x86, 0xdd] => (6, *frame.get(20)?),
        _ => return None,
    };
    matches!(protocol, 6 | 17).then_some((version, protocol))
}

/// The bytes of a case: all lines that are not comments.
fn frame(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_left_out() {
        assert_eq!(
            frame("# arp: a.\n# expect: pass\n0aff\n01\n"),
            Some(vec![10, 255, 1])
        );
        assert_eq!(frame("0"), None);
    }
}
