//! The packages, and which of them are missing.

/// A Debian package and, where it brings one, the program by which other systems are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Package {
    /// Name on Debian and Ubuntu.
    pub(super) debian: &'static str,
    /// Program it brings; `None` for libraries and headers.
    pub(super) program: Option<&'static str>,
}

const fn program(debian: &'static str, program: &'static str) -> Package {
    Package {
        debian,
        program: Some(program),
    }
}

const fn library(debian: &'static str) -> Package {
    Package {
        debian,
        program: None,
    }
}

/// libxdp and libbpf are compiled from the source in their crates, with bindings by libclang.
pub(super) const BUILD: &[Package] = &[
    program("gcc", "gcc"),
    program("binutils", "strip"),
    program("make", "make"),
    program("m4", "m4"),
    program("pkg-config", "pkg-config"),
    program("clang", "clang"),
    library("libclang-dev"),
    library("libelf-dev"),
    library("zlib1g-dev"),
    library("linux-libc-dev"),
];

/// What the demo tells people to type while its lab is up.
pub(super) const DEMO: &[Package] = &[program("curl", "curl"), program("iproute2", "ip")];

/// Real servers and clients for the tests in network namespaces.
pub(super) const TEST: &[Package] = &[
    // libFuzzer is C++.
    program("g++", "g++"),
    program("nginx", "nginx"),
    program("curl", "curl"),
    program("wrk", "wrk"),
    program("iperf3", "iperf3"),
    program("iproute2", "ip"),
    program("ethtool", "ethtool"),
    program("valgrind", "valgrind"),
];

/// Names of the packages that are not installed, given `dpkg-query`'s pairs of package and state.
pub(super) fn missing(wanted: &[Package], states: &str) -> Vec<&'static str> {
    let is_installed = |name: &str| {
        states
            .lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(package, state)| package == name && state.trim() == "installed")
    };
    wanted
        .iter()
        .map(|package| package.debian)
        .filter(|name| !is_installed(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &[Package] = &[
        program("clang", "clang"),
        library("libelf-dev"),
        program("nginx", "nginx"),
    ];

    #[test]
    fn nothing_is_missing_when_all_are_installed() {
        let states = "clang installed\nlibelf-dev installed\nnginx installed\n";
        assert!(missing(WANTED, states).is_empty());
    }

    #[test]
    fn unknown_and_removed_packages_are_missing() {
        let states = "clang installed\nnginx config-files\n";
        assert_eq!(missing(WANTED, states), ["libelf-dev", "nginx"]);
    }

    #[test]
    fn half_installed_is_not_installed() {
        let states = "clang half-configured\nlibelf-dev not-installed\nnginx installed\n";
        assert_eq!(missing(WANTED, states), ["clang", "libelf-dev"]);
    }

    #[test]
    fn a_second_architecture_does_not_hide_the_first() {
        let states = "clang installed\nlibelf-dev config-files\nlibelf-dev installed\n\
                      nginx installed\n";
        assert!(missing(WANTED, states).is_empty());
    }

    #[test]
    fn a_longer_name_does_not_count() {
        assert_eq!(
            missing(
                WANTED,
                "clang-14 installed\nlibelf-dev installed\nnginx-light installed\n"
            ),
            ["clang", "nginx"]
        );
    }

    #[test]
    fn nothing_known_means_all_missing() {
        assert_eq!(missing(WANTED, ""), ["clang", "libelf-dev", "nginx"]);
    }
}
