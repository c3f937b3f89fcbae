//! Where this machine gets Debian's packages from, read from its package sources.

use std::{fs, path::PathBuf};

use super::OutOfReach;

/// A Debian archive that the machine uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Address without a slash at its end.
    uri: String,
    /// Keyring that signs it, as the machine's configuration names it.
    signed_by: Option<String>,
}

impl Archive {
    /// The first Debian archive among the machine's package sources.
    pub(crate) fn of_this_machine() -> Result<Self, OutOfReach> {
        Self::find().ok_or_else(|| {
            OutOfReach(
                "no Debian archive among the package sources in /etc/apt: add the line of a Debian mirror, such \
                 as `deb http://deb.debian.org/debian trixie main`, or run this on Debian"
                    .to_owned(),
            )
        })
    }

    fn find() -> Option<Self> {
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        let mut parts: Vec<_> = fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        parts.sort();
        files.extend(parts);
        files.iter().find_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            match file.extension()?.to_str()? {
                "sources" => Self::from_deb822(&text),
                "list" => Self::from_list(&text),
                _ => None,
            }
        })
    }

    /// Format of `*.sources`: stanzas of `Field: value`.
    fn from_deb822(text: &str) -> Option<Self> {
        stanzas(text).iter().find_map(|stanza| {
            let field = |wanted: &str| {
                stanza.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case(wanted).then(|| value.trim())
                })
            };
            let words = |wanted: &str| field(wanted).unwrap_or_default().split_whitespace();
            let binary = words("Types").any(|kind| kind == "deb");
            let uri = words("URIs").next()?;
            if !binary || !is_debian(uri, words("Suites"), words("Components")) {
                return None;
            }
            let signed_by = field("Signed-By").filter(|value| value.starts_with('/'));
            Some(Self::new(uri, signed_by))
        })
    }

    /// Format of `*.list`: `deb [options] address suite components…`.
    fn from_list(text: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim_start();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            let uri = words.next()?;
            let suite = words.next();
            if !is_debian(uri, suite, words) {
                return None;
            }
            let signed_by = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="));
            Some(Self::new(uri, signed_by))
        })
    }

    fn new(uri: &str, signed_by: Option<&str>) -> Self {
        Self {
            uri: uri.trim_end_matches('/').to_owned(),
            signed_by: signed_by.map(str::to_owned),
        }
    }

    /// A line of `sources.list` for another suite of the same archive.
    pub(crate) fn line(&self, suite: &str) -> String {
        let options = self
            .signed_by
            .as_ref()
            .map(|keyring| format!("[signed-by={keyring}] "))
            .unwrap_or_default();
        format!("deb {options}{} {suite} main\n", self.uri)
    }
}

/// Whether an entry is Debian's main archive, or a mirror of it under any address.
fn is_debian<'a>(
    uri: &str,
    suites: impl IntoIterator<Item = &'a str>,
    components: impl IntoIterator<Item = &'a str>,
) -> bool {
    const SUITES: [&str; 9] = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ];
    !uri.contains("security")
        && suites.into_iter().any(|suite| SUITES.contains(&suite))
        && components.into_iter().any(|component| component == "main")
}

/// Stanzas without their comments, each field on one line.
fn stanzas(text: &str) -> Vec<String> {
    let mut stanzas = vec![String::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            stanzas.push(String::new());
        } else if let Some(stanza) = stanzas.last_mut() {
            let separator = if line.starts_with([' ', '\t']) {
                ""
            } else {
                "\n"
            };
            stanza.push_str(separator);
            stanza.push_str(line);
        }
    }
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment
URIs: http://deb.example.org/debian-security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://src.example.org/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://mirror.example.org/debian/
Suites:
 bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

    #[test]
    fn stanzas_give_archive_and_keyring() {
        let archive = Archive::from_deb822(DEB822).expect("the third stanza is Debian's archive");
        assert_eq!(
            archive.line("trixie-backports"),
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
             http://mirror.example.org/debian trixie-backports main\n"
        );
    }

    #[test]
    fn an_embedded_key_is_not_a_path() {
        let text = "Types: deb\nURIs: http://a/debian\nSuites: sid\nComponents: main\n\
                    Signed-By:\n -----BEGIN\n";
        let archive = Archive::from_deb822(text).expect("Debian's archive");
        assert_eq!(archive.line("s"), "deb http://a/debian s main\n");
    }

    #[test]
    fn lines_give_archive_and_keyring() {
        let text = "# deb http://old/debian x main\n\
                    deb http://vendor.example.org/linux/debian bookworm stable\n\
                    deb http://security.example.org/ bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main\n";
        let archive = Archive::from_list(text).expect("the fourth line is Debian's archive");
        assert_eq!(
            archive.line("s"),
            "deb [signed-by=/k.gpg] http://a/debian s main\n"
        );
        let plain = Archive::from_list("deb http://a/debian/ bookworm main\n");
        assert_eq!(
            plain.expect("an archive").line("s"),
            "deb http://a/debian s main\n"
        );
    }

    #[test]
    fn other_archives_are_left_alone() {
        assert_eq!(Archive::from_list("deb http://a/ubuntu noble main\n"), None);
        assert_eq!(
            Archive::from_deb822("Types: deb\nURIs: http://a/ubuntu\n"),
            None
        );
        assert_eq!(Archive::from_deb822(""), None);
    }
}
