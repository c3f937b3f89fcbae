//! The named packets of `dataplane/tests/corpus` as inputs of the target `frames`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::shell;

/// Settings number 0, and a frame with 20 bytes of room and no tag, as the target reads them.
const HEAD: [u8; 3] = [0, 1, 0];

/// Writes an input for each packet.
pub(super) fn write(folder: &Path) -> Result<()> {
    let corpus = shell::root().join("dataplane/tests/corpus");
    for entry in fs::read_dir(&corpus).with_context(|| corpus.display().to_string())? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let frame = frame(&text).with_context(|| format!("{}: not hex", path.display()))?;
        let mut input = HEAD.to_vec();
        input.extend_from_slice(&(frame.len() as u16).to_be_bytes());
        input.extend_from_slice(&frame);
        let name = path.file_stem().unwrap_or_default();
        fs::write(folder.join(name), input)?;
    }
    Ok(())
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
