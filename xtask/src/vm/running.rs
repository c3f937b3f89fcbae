//! QEMU while it runs, perhaps as root: it ends with this process at the latest.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::shell;

/// A lock by which a program runs: it is killed as soon as nobody holds the lock.
pub(super) struct Leash {
    script: PathBuf,
    path: PathBuf,
    held: File,
}

impl Leash {
    /// Takes the lock of a file of this name in a folder, which gets the script beside it.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        const FLOCK: &str = "flock";
        ensure!(
            shell::has_program(FLOCK),
            "{FLOCK} is missing: install util-linux"
        );
        let script = folder.join("watched.sh");
        fs::write(&script, include_str!("watched.sh"))
            .with_context(|| format!("cannot write {}", script.display()))?;
        let path = folder.join("leash");
        let held =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        held.try_lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { script, path, held })
    }

    /// The words before those of the program.
    pub(super) fn words(&self) -> Vec<String> {
        let shown = |path: &Path| path.display().to_string();
        vec!["sh".to_owned(), shown(&self.script), shown(&self.path)]
    }
}

/// A running program on its leash; dropping it ends it.
pub(super) struct Running {
    child: Child,
    leash: Leash,
    /// Where it speaks to.
    log: PathBuf,
}

impl Running {
    /// Starts a command that begins with the leash's words. What it says goes into a file of the folder.
    pub(super) fn start(command: &mut Command, leash: Leash) -> Result<Self> {
        let log = leash.path.with_file_name("qemu.log");
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        shell::announce(command);
        let child = command
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::text(command)))?;
        Ok(Self { child, leash, log })
    }

    /// Its status, if it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What it has said.
    pub(super) fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Why it ended.
    pub(super) fn failure(&self, status: ExitStatus) -> anyhow::Error {
        match self.words().trim() {
            "" => anyhow!("QEMU ended with {status}"),
            words => anyhow!("QEMU ended with {status}: {words}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if there is nothing to end or to wait for any more.
        let _ = self.leash.held.unlock();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::Stdio,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// What stands for QEMU: says its process id and never ends.
    const ENDLESS: [&str; 3] = ["sh", "-c", "echo $$; exec sleep 1000"];

    fn command(leash: &Leash, program: &[&str]) -> Command {
        let mut words = leash.words();
        words.extend(program.iter().map(ToString::to_string));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::piped());
        command
    }

    fn first_line(child: &mut Child) -> String {
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn is_there(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    fn wait_for_end(pid: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while is_there(pid) {
            assert!(Instant::now() < deadline, "process {pid} goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_program_ends_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let leash = Leash::new(folder.path()).unwrap();
        let mut command = command(&leash, &ENDLESS);
        let mut running = Running::start(&mut command, leash).unwrap();
        let pid = first_line(&mut running.child);
        assert!(is_there(&pid) && running.ended().unwrap().is_none());
        drop(running);
        assert!(!is_there(&pid));
    }

    #[test]
    fn a_program_ends_when_whoever_started_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let leash = Leash::new(folder.path()).unwrap();
        let words = leash.words();
        leash.held.unlock().unwrap();
        // Holds the lock by itself alone, and starts the program, as this task does.
        let starter = r#"exec 9>"$0"; flock 9; "$@" 9>&- & wait"#;
        let mut starter = Command::new("sh")
            .args(["-c", starter])
            .arg(&leash.path)
            .args(&words)
            .args(ENDLESS)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = first_line(&mut starter);
        assert!(is_there(&pid));
        // SIGKILL: it cannot end anything any more.
        starter.kill().unwrap();
        starter.wait().unwrap();
        wait_for_end(&pid);
    }

    #[test]
    fn status_words_and_input_are_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        let leash = Leash::new(folder.path()).unwrap();
        let program = ["sh", "-c", "read line; echo no $line >&2; exit 3"];
        let mut command = command(&leash, &program);
        command.stdin(Stdio::piped());
        let mut running = Running::start(&mut command, leash).unwrap();
        let mut input = running.child.stdin.take().expect("a pipe");
        writeln!(input, "disk").unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        let status = loop {
            if let Some(status) = running.ended().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(3));
        let failure = running.failure(status).to_string();
        assert!(failure.ends_with(": no disk"), "{failure}");
    }
}
