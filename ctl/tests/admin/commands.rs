//! `katran-xsk ctl` and `katran-xsk shell` as programs.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{clients::Served, rig::tcp_frame};

fn katran_xsk(command: &str, socket: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_katran-xsk"));
    program.arg(command).arg("--socket").arg(socket);
    program
}

pub(crate) fn ctl(socket: &Path, words: &[&str]) -> Output {
    katran_xsk("ctl", socket)
        .args(words)
        .output()
        .expect("the program runs")
}

/// Output of a command that succeeds.
pub(crate) fn done(served: &Served, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = ctl(&served.path, &words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a command that is refused says.
pub(crate) fn refused(served: &Served, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = ctl(&served.path, &words);
    assert_eq!(output.status.code(), Some(1), "{line}");
    String::from_utf8(output.stderr).expect("text")
}

fn shell(socket: &Path, options: &[&str], script: &str) -> Output {
    let mut child = katran_xsk("shell", socket)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut input = child.stdin.take().expect("a pipe");
    // A script that fails early is not read to its end.
    let _ = input.write_all(script.as_bytes());
    drop(input);
    child.wait_with_output().expect("the program ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn ctl_prints_tables() {
    let served = Served::new();
    let output = ctl(&served.path, &["vip", "list"]);
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout),
        "VIP                       NUMBER  HASH       REALS  WEIGHT  FLAGS\n\
         203.0.113.10:80/tcp            0  maglev-v2      2       2  -\n\
         [2001:db8:a::/96]:53/udp       1  maglev-v2      1       1  -\n"
    );
    // Every question has its text, whatever it answers.
    for words in [
        "real list",
        "decap list",
        "show workers",
        "show stats",
        "show drops",
        "show config",
        "show memory",
        "flow list",
        "flow count",
        "flow analyze",
        "flow del 192.0.2.1:1 203.0.113.10:80 tcp",
        "flow purge 203.0.113.10:80/tcp",
        "explain 192.0.2.1:1 203.0.113.10:80 tcp",
        "sid list",
        "hc list",
        "reload",
        "dump",
        "help",
        "version",
    ] {
        let output = ctl(&served.path, &[words]);
        assert!(output.status.success(), "{words}: {}", text(&output.stderr));
        assert!(output.stdout.ends_with(b"\n"), "{words}");
        assert!(output.stderr.is_empty(), "{words}");
    }
}

#[test]
fn ctl_prints_json() {
    let served = Served::new();
    let output = ctl(&served.path, &["--json", "vip", "list"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["result"]["vips"][0]["vip"], "203.0.113.10:80/tcp");
    let output = ctl(&served.path, &["--json", "vip", "del", "203.0.113.1:1/tcp"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["error"]["field"], "vip");
}

#[test]
fn ctl_says_what_went_wrong() {
    let served = Served::new();
    let nowhere = served.path.with_file_name("nobody.sock");
    let cases: [(&Path, &[&str], i32, &str); 6] = [
        (
            &served.path,
            &["vip", "del", "203.0.113.1:1/tcp"],
            1,
            "there is no VIP 203.0.113.1:1/tcp",
        ),
        (
            &served.path,
            &["vip", "add", "203.0.113.1"],
            2,
            "203.0.113.10:80/tcp",
        ),
        (
            &served.path,
            &["flow get 192.0.2.1:1 203.0.113.10:80 tcp"],
            1,
            "no table has 192.0.2.1:1 to 203.0.113.10:80/tcp",
        ),
        (&served.path, &["nonsense"], 2, "`help` lists the commands"),
        (
            &served.path,
            &["--watch", "1", "vip", "list"],
            2,
            "only `show` commands",
        ),
        (&nowhere, &["vip", "list"], 1, "is katran-xsk running?"),
    ];
    for (socket, words, code, part) in cases {
        let output = ctl(socket, words);
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(
            text(&output.stderr).contains(part),
            "{words:?}: {}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty());
    }
    drop(std::os::unix::net::UnixListener::bind(&nowhere).expect("binds"));
    let output = ctl(&nowhere, &["vip", "list"]);
    assert!(
        text(&output.stderr).contains("nobody listens"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn ctl_waits_as_long_as_it_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("silent.sock");
    // It takes the connection and says nothing.
    let _silent = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
    let output = ctl(&socket, &["--timeout", "1", "version"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        format!(
            "katran-xsk: {} gave no answer within 1 s; wait longer with --timeout, or look at the \
             balancer's log\n",
            socket.display()
        )
    );
    let output = ctl(&socket, &["--timeout", "0", "version"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn ctl_watches_until_the_balancer_goes() {
    let mut served = Served::new();
    let mut child = katran_xsk("ctl", &served.path)
        .args(["--json", "--watch", "1", "show", "stats"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("text");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["ok"], true);
    }
    served.stop();
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("there is no socket"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn ctl_watches_rates_in_json() {
    let served = Served::new();
    let mut child = katran_xsk("ctl", &served.path)
        .args(["--json", "--watch", "1", "show", "drops"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    let fragments = |answer: &serde_json::Value| {
        let drops = answer["result"]["drops"]
            .as_array()
            .expect("a list")
            .clone();
        let row = drops.into_iter().find(|row| row["reason"] == "fragment");
        row.expect("a reason")["packets"].clone()
    };
    let mut fragment = tcp_frame("192.0.2.1:4000", "203.0.113.10:80");
    // The flag that more fragments follow.
    fragment[20] |= 0x20;
    served.rig.send_frame(0, &fragment);
    let first = next();
    assert_eq!(
        (&first["reading"], fragments(&first)),
        (&"totals".into(), 1.into())
    );
    let second = next();
    assert_eq!(second["reading"], "per-second");
    assert_eq!(fragments(&second), 0, "{second}");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn ctl_watches_refusals_in_json() {
    let served = Served::new();
    let words = [
        "--json",
        "--watch",
        "1",
        "show",
        "stats",
        "203.0.113.1:1/tcp",
    ];
    let output = ctl(&served.path, &words);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["error"]["field"], "vip");
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("there is no VIP 203.0.113.1:1/tcp"),
        "{stderr}"
    );
}

#[test]
fn words_with_blanks_can_be_quoted() {
    let served = Served::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("two words.pcapng");
    let path = file.display();
    let output = shell(
        &served.path,
        &[],
        &format!("capture start event=pass 'file={path}'  # a comment\ncapture stop\n"),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(file.exists());
    fs::remove_file(&file).expect("it is there");
    // The words of an argument list are whole; one word alone is a line.
    let words = [
        "capture",
        "start",
        "--event",
        "pass",
        "-w",
        &path.to_string(),
    ];
    let output = ctl(&served.path, &words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(file.exists());
    ctl(&served.path, &["capture stop"]);
    fs::remove_file(&file).expect("it is there");
    let output = ctl(
        &served.path,
        &[&format!("capture start event=pass file='{path}'")],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(file.exists());

    for (line, code) in [("vip list 'x", 2), ("\"", 2)] {
        let output = ctl(&served.path, &[line]);
        assert_eq!(output.status.code(), Some(code), "{line}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("a quote is not closed"), "{stderr}");
    }
    let output = shell(&served.path, &[], "version\nvip list 'x\n");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("line 2: command: a quote is not closed"),
        "{stderr}"
    );
}

#[test]
fn ctl_watches_rates() {
    let served = Served::new();
    let mut child = katran_xsk("ctl", &served.path)
        .args(["--watch", "1", "show", "drops"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().ends_with("; dropped frames"));
    while !next().is_empty() {}
    assert!(next().ends_with("; dropped frames, per second"));
    // Nobody reads any more: it ends, and says so only by its status.
    drop(lines);
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn shell_runs_scripts() {
    let served = Served::new();
    let script = "# a comment\n\nvip add 203.0.113.20:443/tcp\nvip add 203.0.113.20:443/tcp\nvip del 203.0.113.20:443/tcp\n";
    let output = shell(&served.path, &[], script);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("added vip 203.0.113.20:443/tcp"));
    assert!(text(&output.stderr).starts_with("line 4: vip: 203.0.113.20:443/tcp exists already"));
    assert!(!text(&output.stdout).contains("removed"));

    let output = shell(&served.path, &["--keep-going"], script);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("removed vip 203.0.113.20:443/tcp"));

    let output = shell(&served.path, &["--json"], "version\nquit\nnonsense\n");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().count(), 1);
}
