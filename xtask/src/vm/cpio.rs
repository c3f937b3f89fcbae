//! The file system a machine starts with: an archive in cpio's format "newc" (kernel documentation,
//! driver-api/early-userspace/buffer-format).

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const DEVICE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a program.
    pub(super) fn program(&mut self, path: &str, contents: &[u8]) {
        self.folders_of(path);
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// Adds a file.
    pub(super) fn data(&mut self, path: &str, contents: &[u8]) {
        self.folders_of(path);
        self.entry(path, DATA, (0, 0), contents);
    }

    /// Adds a character device with its numbers.
    pub(super) fn device(&mut self, path: &str, numbers: (u32, u32)) {
        self.folders_of(path);
        self.entry(path, DEVICE, numbers, &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn folders_of(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            if self.folders.insert(path[..end].to_owned()) {
                self.entry(&path[..end], FOLDER, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let (major, minor) = device;
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            contents.len() as u32,
            0, // numbers of the device it lies on
            0,
            major,
            minor,
            path.len() as u32 + 1,
            0, // checksum, which this format does not have
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_have_their_folders() {
        let mut archive = Archive::default();
        archive.program("a/b/run", b"12345");
        archive.data("a/c", b"");
        archive.device("dev/console", (5, 1));
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let headers: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(headers.iter().all(|at| at % 4 == 0), "{headers:?}");
        // a, a/b, a/b/run, a/c, dev, dev/console and the end.
        assert_eq!(headers.len(), 7);
        let run = &text[headers[2]..headers[3]];
        assert!(run[6..].starts_with("00000003000081ED"), "{run}");
        assert_eq!(&run[54..62], "00000005");
        assert!(run[110..].starts_with("a/b/run\0"), "{run}");
        assert!(text[headers[5]..][78..94].starts_with("0000000500000001"));
    }
}
