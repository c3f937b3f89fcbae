//! Completion of a line that is being typed.

use dataplane::{
    capture::Happened,
    counters::DropReason,
    service::{HashFunction, Protocol, VipFlags},
};

use crate::control::settings;

use super::{
    ArgumentSpec, COMMANDS, CommandSpec, Kind, split_words,
    words::{self, Given},
};

/// What only a running balancer knows.
pub trait Live {
    /// VIPs there are.
    fn vips(&self) -> Vec<String>;

    /// Reals of one VIP, or of all.
    fn reals(&self, vip: Option<&str>) -> Vec<String>;

    /// Decap destinations.
    fn decap(&self) -> Vec<String>;

    /// Marks of health checks.
    fn marks(&self) -> Vec<String>;
}

/// Candidates for the last word of `line`, and the byte at which what they replace starts.
pub fn complete(line: &str, live: &impl Live) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| {
        at + line[at..].chars().next().map_or(1, char::len_utf8)
    });
    let (head, last) = line.split_at(start);
    // Behind a quote that is open nothing can be completed.
    let words = shlex::split(head).unwrap_or_else(|| vec![head.to_owned()]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (start, prefix, candidates) = match split_words(&words) {
        Ok((spec, rest)) if !continues(&words) => arguments(spec, rest, start, last, live),
        _ => (start, last, command_words(&words)),
    };
    let mut candidates: Vec<String> = candidates
        .into_iter()
        .filter(|candidate| candidate.starts_with(prefix))
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    (start, candidates)
}

/// Whether the words are the start of a longer command name.
fn continues(words: &[&str]) -> bool {
    let name = words.join(" ") + " ";
    COMMANDS.iter().any(|spec| spec.name.starts_with(&name))
}

/// Words with which a command name can go on.
fn command_words(words: &[&str]) -> Vec<String> {
    let name = words.join(" ");
    COMMANDS
        .iter()
        .filter_map(|spec| {
            let rest = spec.name.strip_prefix(&name)?;
            let rest = if name.is_empty() {
                rest
            } else {
                rest.strip_prefix(' ')?
            };
            let word = rest.split(' ').next().unwrap_or(rest);
            Some(format!("{word} "))
        })
        .collect()
}

fn arguments<'l>(
    spec: &'static CommandSpec,
    given: &[&str],
    start: usize,
    last: &'l str,
    live: &impl Live,
) -> (usize, &'l str, Vec<String>) {
    let given = words::read(spec, given);
    // The VIP decides which reals there are.
    let vip = given
        .iter()
        .filter_map(|given| match given {
            Given::Place(value) => Some(*value),
            Given::Named(argument, value) if argument.name == "vip" => Some(*value),
            _ => None,
        })
        .find(|value| super::parse_vip(value).is_ok());
    if let Some(Given::Dangling(argument, _)) = given.last() {
        return value(argument, start, last, vip, live);
    }
    let (dashes, named) = match last.strip_prefix("--") {
        Some(rest) => ("--", rest),
        None => ("", last),
    };
    if let Some((name, text)) = named.split_once('=') {
        let Some(argument) = spec.argument(name) else {
            return (start, last, Vec::new());
        };
        return value(argument, start + last.len() - text.len(), text, vip, live);
    }
    let is_given = |argument: &ArgumentSpec| {
        given
            .iter()
            .any(|given| matches!(given, Given::Named(named, _) if named.name == argument.name))
    };
    let names = spec
        .arguments
        .iter()
        .filter(|argument| !argument.positional)
        .filter(|argument| argument.repeated || !is_given(argument))
        .map(|argument| format!("{dashes}{}=", argument.name));
    let places = given
        .iter()
        .filter(|given| matches!(given, Given::Place(_)))
        .count();
    let positional: Vec<&ArgumentSpec> = spec
        .arguments
        .iter()
        .filter(|argument| argument.positional && !is_given(argument))
        .collect();
    let next = positional
        .get(places)
        .or_else(|| positional.last().filter(|argument| argument.repeated))
        .copied();
    let mut candidates = next.map_or_else(Vec::new, |argument| values(argument, vip, live));
    candidates.extend(names);
    (start, last, candidates)
}

/// Candidates for the value of an argument that starts at byte `start`. Of a list only its last
/// element is completed.
fn value<'l>(
    argument: &ArgumentSpec,
    start: usize,
    text: &'l str,
    vip: Option<&str>,
    live: &impl Live,
) -> (usize, &'l str, Vec<String>) {
    let list = if argument.repeated {
        text.rfind(',').map_or(0, |at| at + 1)
    } else {
        0
    };
    (start + list, &text[list..], values(argument, vip, live))
}

fn values(argument: &ArgumentSpec, vip: Option<&str>, live: &impl Live) -> Vec<String> {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match argument.kind {
        Kind::Vip => live.vips(),
        Kind::Real | Kind::WeightedReal => live.reals(vip),
        Kind::Decap => live.decap(),
        // The address and port of a VIP, of which a flow's destination is one.
        Kind::Endpoint if argument.name == "destination" => live
            .vips()
            .iter()
            .filter_map(|vip| vip.rsplit_once('/'))
            .map(|(endpoint, _)| endpoint.to_owned())
            .filter(|endpoint| super::value::parse_endpoint(endpoint).is_ok())
            .collect(),
        Kind::Hash => names(&HashFunction::ALL.map(HashFunction::name)),
        Kind::Flag => names(&VipFlags::NAMES.map(|(name, _)| name)),
        Kind::Protocol => names(&[Protocol::Tcp.name(), Protocol::Udp.name()]),
        Kind::RealFlag => names(&["local"]),
        Kind::Bool => names(&["true", "false"]),
        Kind::Setting => names(&settings::keys()),
        Kind::Command => COMMANDS
            .iter()
            .flat_map(|spec| spec.name.split(' '))
            .map(str::to_owned)
            .collect(),
        Kind::Event => {
            let happened = Happened::NAMES.iter().map(|(name, _)| (*name).to_owned());
            let drops = DropReason::ALL.iter();
            let drops = drops.map(|reason| format!("drop:{}", reason.name()));
            let vips = live.vips().into_iter().map(|vip| format!("vip:{vip}"));
            happened.chain(drops).chain(vips).collect()
        }
        Kind::Number
        | Kind::ServerId
        | Kind::Endpoint
        | Kind::Client
        | Kind::Prefix
        | Kind::File
        | Kind::Value
        | Kind::NewAddress => Vec::new(),
        Kind::Mark => live.marks(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab;

    impl Live for Lab {
        fn vips(&self) -> Vec<String> {
            vec![
                "203.0.113.10:80/tcp".into(),
                "[2001:db8:a::/96]:0/udp".into(),
            ]
        }

        fn reals(&self, vip: Option<&str>) -> Vec<String> {
            match vip {
                Some("203.0.113.10:80/tcp") => vec!["198.51.100.1".into(), "198.51.100.2".into()],
                Some(_) => vec!["2001:db8::1".into()],
                None => vec!["all".into()],
            }
        }

        fn decap(&self) -> Vec<String> {
            vec!["198.18.5.1".into(), "2001:db8:5::1".into()]
        }

        fn marks(&self) -> Vec<String> {
            vec!["7".into(), "71".into()]
        }
    }

    fn candidates(line: &str) -> (String, Vec<String>) {
        let (start, candidates) = complete(line, &Lab);
        (line[..start].to_owned(), candidates)
    }

    #[test]
    fn lines_are_completed() {
        let cases: [(&str, &str, &[&str]); 25] = [
            ("decap del ", "decap del ", &["198.18.5.1", "2001:db8:5::1"]),
            (
                "decap add 198.18.5.3 ",
                "decap add 198.18.5.3 ",
                &["egress="],
            ),
            ("re", "", &["real ", "reload "]),
            ("vip ", "vip ", &["add ", "del ", "list ", "set ", "unset "]),
            ("vip a", "vip ", &["add "]),
            (
                "vip del ",
                "vip del ",
                &["203.0.113.10:80/tcp", "[2001:db8:a::/96]:0/udp"],
            ),
            ("vip del 2", "vip del ", &["203.0.113.10:80/tcp"]),
            (
                "vip add 203.0.113.10:80/tcp ",
                "vip add 203.0.113.10:80/tcp ",
                &["flags=", "hash=", "real="],
            ),
            (
                "vip add x hash=maglev-v1",
                "vip add x hash=",
                &["maglev-v1"],
            ),
            (
                "vip set x flags=quic,lru",
                "vip set x flags=quic,",
                &["lru-bypass"],
            ),
            (
                "real del 203.0.113.10:80/tcp 198.51.100.1 ",
                "real del 203.0.113.10:80/tcp 198.51.100.1 ",
                &["198.51.100.1", "198.51.100.2"],
            ),
            (
                "real del vip=[2001:db8:a::/96]:0/udp ",
                "real del vip=[2001:db8:a::/96]:0/udp ",
                &["2001:db8::1"],
            ),
            (
                "explain 192.0.2.1:1 ",
                "explain 192.0.2.1:1 ",
                &["203.0.113.10:80", "error=", "sid=", "syn=", "tunnel="],
            ),
            (
                "explain 192.0.2.1:1 203.0.113.10:80 u",
                "explain 192.0.2.1:1 203.0.113.10:80 ",
                &["udp"],
            ),
            (
                "vip add x --",
                "vip add x ",
                &["--flags=", "--hash=", "--real="],
            ),
            (
                "vip add x --hash maglev-v1 --",
                "vip add x --hash maglev-v1 ",
                &["--flags=", "--real="],
            ),
            (
                "vip add x --hash=maglev-v2",
                "vip add x --hash=",
                &["maglev-v2"],
            ),
            (
                "vip set x --flags quic,lru",
                "vip set x --flags quic,",
                &["lru-bypass"],
            ),
            (
                "real del --vip [2001:db8:a::/96]:0/udp ",
                "real del --vip [2001:db8:a::/96]:0/udp ",
                &["2001:db8::1"],
            ),
            (
                "capture start --event lru-miss,v",
                "capture start --event lru-miss,",
                &["vip:203.0.113.10:80/tcp", "vip:[2001:db8:a::/96]:0/udp"],
            ),
            (
                "capture start event=drop:f",
                "capture start event=",
                &[
                    "drop:family-mismatch",
                    "drop:fragment",
                    "drop:frame-too-long",
                ],
            ),
            ("capture start -w ", "capture start -w ", &[]),
            ("hc ", "hc ", &["add ", "del ", "list "]),
            ("hc del 7 7", "hc del 7 ", &["7", "71"]),
            ("nonsense ", "nonsense ", &[]),
        ];
        for (line, kept, expected) in cases {
            let (head, found) = candidates(line);
            assert_eq!(
                (head.as_str(), found),
                (kept, expected.iter().map(|&c| c.into()).collect()),
                "{line}"
            );
        }
    }

    #[test]
    fn an_empty_line_completes_to_every_first_word() {
        let (_, found) = candidates("");
        assert!(found.contains(&"vip ".to_owned()) && found.contains(&"dump ".to_owned()));
    }
}
