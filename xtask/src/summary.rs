//! Reads what `cargo test` prints and adds it up.

use std::fmt;

/// Sums over all test binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed; those that skipped themselves are not among them.
    pub(crate) passed: u64,
    /// Tests that failed, and binaries that failed without saying which test it was.
    pub(crate) failed: u64,
    /// Tests that were not run on purpose.
    pub(crate) skipped: u64,
}

impl Tally {
    /// Both sums.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// What one line of `cargo test` says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// The next binary starts.
    Binary,
    /// A test passed, or the line says nothing worth reading.
    Quiet,
    /// A test failed.
    Failed(&'a str),
    /// A test says that it cannot run here; the harness takes it for one that passed.
    Skipped,
    /// Sums of one binary.
    Sums(Tally),
    /// Cargo's last word on a binary that failed.
    BinaryFailed,
    /// Anything else.
    Other,
}

fn parse(line: &str) -> Line<'_> {
    if let Some(result) = line.strip_prefix("test result: ") {
        return parse_sums(result).map_or(Line::Other, Line::Sums);
    }
    // It goes around the harness, which may have begun a line already.
    if line.starts_with("SKIPPED ") || line.contains(" ... SKIPPED ") {
        return Line::Skipped;
    }
    if let Some(test) = line.strip_prefix("test ") {
        // A test that should panic says so between its name and the dots.
        if let Some((name, outcome)) = test.rsplit_once(" ... ") {
            return match outcome.split([' ', ',']).next() {
                Some("ok" | "ignored") => Line::Quiet,
                Some("FAILED") => Line::Failed(name),
                _ => Line::Other,
            };
        }
    }
    let unindented = line.trim_start();
    if unindented.starts_with("Running ") || unindented.starts_with("Doc-tests ") {
        Line::Binary
    } else if line.starts_with("error: test failed") || line.starts_with("error: doctest failed") {
        Line::BinaryFailed
    } else if line.trim().is_empty() || is_announcement(line) {
        Line::Quiet
    } else {
        Line::Other
    }
}

/// `running 12 tests`
fn is_announcement(line: &str) -> bool {
    line.strip_prefix("running ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(number, what)| {
            number.parse::<u64>().is_ok() && matches!(what, "test" | "tests")
        })
}

/// `ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.05s`
fn parse_sums(result: &str) -> Option<Tally> {
    let (_verdict, sums) = result.split_once(". ")?;
    let of = |what: &str| {
        sums.split("; ")
            .filter_map(|part| part.split_once(' '))
            .find(|&(_, name)| name == what)
            .and_then(|(number, _)| number.parse().ok())
    };
    Some(Tally {
        passed: of("passed")?,
        failed: of("failed")?,
        skipped: of("ignored")?,
    })
}

/// Follows the output of `cargo test` line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    failed_tests: Vec<String>,
    /// Tests that skipped themselves.
    self_skipped: u64,
    /// Whether the current binary has named a failure of its own.
    binary_named_failure: bool,
}

impl Reader {
    /// Takes one line; tells whether it is worth showing to somebody who wants failures only.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        match parse(line) {
            Line::Binary => self.binary_named_failure = false,
            Line::Quiet => return false,
            Line::Skipped => self.self_skipped += 1,
            Line::Failed(name) => self.failed_tests.push(name.to_owned()),
            Line::Sums(sums) => {
                self.tally.passed += sums.passed;
                self.tally.failed += sums.failed;
                self.tally.skipped += sums.skipped;
                self.binary_named_failure |= sums.failed > 0;
            }
            // It was killed, or ended early: there are no sums to learn this from.
            Line::BinaryFailed if !self.binary_named_failure => self.tally.failed += 1,
            Line::BinaryFailed | Line::Other => {}
        }
        true
    }

    /// Sums so far, and the names of the tests that failed. `succeeded` is cargo's own verdict: its
    /// failure counts even where no line told of one, as when a test does not compile.
    pub(crate) fn finish(mut self, succeeded: bool) -> (Tally, Vec<String>) {
        if !succeeded && self.tally.failed == 0 {
            self.tally.failed = 1;
        }
        self.tally.passed = self.tally.passed.saturating_sub(self.self_skipped);
        self.tally.skipped += self.self_skipped;
        (self.tally, self.failed_tests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, succeeded: bool) -> (Tally, Vec<String>) {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.read(line);
        }
        reader.finish(succeeded)
    }

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn sums_add_up_over_binaries_and_doctests() {
        let (sums, failed) = read(
            "   Compiling maglev v0.1.0\n\
             \x20   Finished `test` profile [optimized] target(s) in 2.51s\n\
             \x20    Running unittests src/lib.rs (target/debug/deps/maglev-05f7)\n\
             \n\
             running 3 tests\n\
             test ring::tests::balance ... ok\n\
             test ring::tests::slow ... ignored, takes an hour\n\
             test ring::tests::panics - should panic ... ok\n\
             \n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.09s\n\
             \n\
             \x20  Doc-tests maglev\n\
             \n\
             running 1 test\n\
             test maglev/src/lib.rs - (line 12) ... ok\n\
             \n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.30s\n\
             all doctests ran in 0.62s; merged doctests compilation took 0.31s\n",
            true,
        );
        assert_eq!(sums, tally(3, 0, 1));
        assert!(failed.is_empty());
    }

    #[test]
    fn a_failed_test_counts_once_and_is_named() {
        let (sums, failed) = read(
            "     Running unittests src/lib.rs (target/debug/deps/conntrack-05f7)\n\
             test table::evicts ... FAILED\n\
             test table::finds ... ok\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             error: test failed, to rerun pass `-p conntrack --lib`\n\
             \x20    Running unittests src/main.rs (target/debug/deps/katran_xsk-77aa)\n\
             test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             error: 1 target failed:\n    `-p conntrack --lib`\n",
            false,
        );
        assert_eq!(sums, tally(5, 1, 0));
        assert_eq!(failed, ["table::evicts"]);
    }

    #[test]
    fn a_binary_that_was_killed_counts_as_a_failure() {
        let (sums, _) = read(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             test a ... FAILED\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             error: test failed, to rerun pass `-p a --lib`\n\
             \x20    Running unittests src/lib.rs (target/debug/deps/b-2)\n\
             test one ... ok\n\
             error: test failed, to rerun pass `-p b --lib`\n\n\
             Caused by:\n  process didn't exit successfully: `b-2` (signal: 6, SIGABRT)\n",
            false,
        );
        assert_eq!(sums, tally(0, 2, 0));
    }

    #[test]
    fn a_test_that_skips_itself_has_not_passed() {
        let (sums, _) = read(
            "     Running tests/lab.rs (target/debug/deps/lab-1)\n\
             SKIPPED a: cannot create network namespaces: run as root\n\
             test a ... ok\n\
             test b ... SKIPPED b: wrk is not installed\n\
             ok\n\
             test c ... ok\n\
             test d ... ignored\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            true,
        );
        assert_eq!(sums, tally(1, 0, 3));
    }

    #[test]
    fn what_does_not_compile_is_a_failure() {
        let (sums, _) = read("error: could not compile `maglev` (lib test)\n", false);
        assert_eq!(sums, tally(0, 1, 0));
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        let (sums, _) = read(
            "test result: garbled\n\
             test result: ok. many passed; 0 failed; 0 ignored\n\
             12 passed, 3 failed\n",
            true,
        );
        assert_eq!(sums, tally(0, 0, 0));
    }

    #[test]
    fn only_lines_that_say_nothing_are_quiet() {
        let mut reader = Reader::default();
        assert!(!reader.read("test ring::balance ... ok"));
        assert!(!reader.read("running 12 tests"));
        assert!(!reader.read(""));
        assert!(reader.read("test ring::balance ... FAILED"));
        assert!(reader.read("running out of frames"));
        assert!(reader.read("test ring::slow has been running for over 60 seconds"));
        assert!(reader.read("assertion `left == right` failed"));
    }

    #[test]
    fn skipped_tests_are_named_only_when_there_are_some() {
        assert_eq!(
            tally(812, 0, 3).to_string(),
            "812 passed, 0 failed, 3 skipped"
        );
        assert_eq!(tally(812, 1, 0).to_string(), "812 passed, 1 failed");
    }
}
