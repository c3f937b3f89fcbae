//! Kernels of Debian's: downloaded and unpacked, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    matrix::{Kernel, Version, Wanted},
    store,
};
use crate::{
    debian::{self, Apt, Archive, OutOfReach},
    shell,
};

/// Modules that some machine needs, with what they depend on.
const MODULES: [&str; 7] = [
    "veth",
    "tun",
    "virtio_pci",
    "virtio_net",
    "igb",
    "vmxnet3",
    "e1000e",
];

/// A kernel that can be booted.
pub(super) struct Bootable {
    /// As in `6.12.43+deb13-amd64`.
    pub(super) release: String,
    pub(super) version: Version,
    pub(super) image: PathBuf,
    /// Folder of uncompressed modules, each `NAME.ko`, with underscores.
    pub(super) modules: PathBuf,
}

/// The kernel, from the cache if it is there and whole, else fetched.
pub(super) fn get(kernel: &Kernel, cache: &Path) -> Result<Bootable> {
    let folder = cache.join("kernels").join(kernel.name);
    let known = if store::is_whole(&folder)? {
        let (release, age) = release_in(&folder)?;
        Some(age).filter(|_| {
            let version = release.parse();
            version.is_ok_and(|version| kernel.version.takes(version))
        })
    } else {
        None
    };
    if !known.is_some_and(|age| is_fresh(kernel, age)) {
        match fetch(kernel, cache, &folder) {
            Ok(()) => {}
            Err(error) if known.is_some() && OutOfReach::is(&error) => {
                eprintln!(
                    "vm: going on with an older kernel {}: {error:#}",
                    kernel.name
                );
            }
            Err(error) => {
                return Err(error.context(format!("kernel {} is not to be had", kernel.name)));
            }
        }
    }
    let (release, _) = release_in(&folder)?;
    Ok(Bootable {
        version: release.parse()?,
        release,
        image: folder.join("vmlinuz"),
        modules: folder.join("modules"),
    })
}

/// How long the newest kernel of a suite that goes on counts as the newest.
const FRESH: Duration = Duration::from_hours(7 * 24);

fn is_fresh(kernel: &Kernel, age: Duration) -> bool {
    match kernel.version {
        Wanted::Is(_) => true,
        Wanted::AtLeast(_) => age < FRESH,
    }
}

/// The release of an unpacked kernel, and how long ago it was fetched.
fn release_in(folder: &Path) -> Result<(String, Duration)> {
    let file = folder.join("release");
    let read = || -> std::io::Result<_> {
        let fetched = fs::metadata(&file)?.modified()?;
        // A clock that was put back makes it a kernel of the future, which is fresh.
        let age = fetched.elapsed().unwrap_or_default();
        Ok((fs::read_to_string(&file)?, age))
    };
    read().with_context(|| format!("cannot read {}", file.display()))
}

/// Fetches the suite's kernel and puts it in the place of what `folder` held.
fn fetch(kernel: &Kernel, cache: &Path, folder: &Path) -> Result<()> {
    // Lists of its own: a suite that is out of reach does not keep the others from being read.
    let lists = cache.join("apt").join(kernel.suite);
    let apt = Apt::new(lists, &Archive::of_this_machine()?, &[kernel.suite])?;
    store::fill(folder, |folder| unpack(kernel, folder, &apt))
}

fn unpack(kernel: &Kernel, folder: &Path, apt: &Apt) -> Result<()> {
    let versions = shell::output(apt.command("apt-cache").args(["madison", META]))?;
    let version = newest(&versions, kernel.suite)
        .with_context(|| format!("{} has no {META}", kernel.suite))?;
    let meta = shell::output(
        apt.command("apt-cache")
            .args(["show", &format!("{META}={version}")]),
    )?;
    let image = dependency(&meta, "linux-image-").context("the kernel's package is unknown")?;
    let release = &image["linux-image-".len()..];
    ensure!(
        kernel.version.takes(release.parse()?),
        "{} has kernel {release}, which is not {}",
        kernel.suite,
        kernel.name
    );
    let image_version = format!("{image}={version}");
    let parts = shell::output(apt.command("apt-cache").args(["show", &image_version]))?;
    eprintln!(
        "vm: fetching Debian's kernel {release} (about 100 MB) from {}",
        kernel.suite
    );

    let unpacked = folder.join("unpacked");
    let split: Vec<&str> = ["linux-binary-", "linux-modules-"]
        .into_iter()
        .filter_map(|prefix| dependency(&parts, prefix))
        .collect();
    // Older packages hold image and modules themselves.
    let packages = if split.is_empty() { vec![image] } else { split };
    for name in packages {
        let package = apt.download(name, version)?;
        debian::unpack(&package, &unpacked)?;
    }
    fs::create_dir_all(folder.join("modules"))?;
    let mut image = None;
    let mut modules = Vec::new();
    visit(&unpacked, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("vmlinuz") {
            image = Some(path.to_owned());
        } else if name.contains(".ko") {
            modules.push(path.to_owned());
        }
    })?;
    let image = image.context("the packages hold no vmlinuz")?;
    fs::rename(image, folder.join("vmlinuz"))?;
    let mut wanted: Vec<String> = MODULES.iter().map(ToString::to_string).collect();
    while let Some(name) = wanted.pop() {
        // What there is no file of is part of the kernel.
        let Some(path) = modules.iter().find(|path| module_name(path) == name) else {
            continue;
        };
        let plain = folder.join("modules").join(format!("{name}.ko"));
        if !plain.is_file() {
            decompress(path, &plain)?;
            wanted.extend(super::modules::dependencies(&plain)?);
        }
    }
    fs::remove_dir_all(&unpacked)?;
    fs::write(folder.join("release"), release)?;
    Ok(())
}

/// Debian's package that depends on the suite's newest kernel.
const META: &str = "linux-image-amd64";

/// The version of a suite in the output of `apt-cache madison`.
fn newest<'a>(madison: &'a str, suite: &str) -> Option<&'a str> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_package, version, source) = (columns.next()?, columns.next()?, columns.next()?);
        source
            .split([' ', '/'])
            .any(|word| word == suite)
            .then_some(version)
    })
}

/// The first package with a prefix that the output of `apt-cache show` says is depended on.
fn dependency<'a>(show: &'a str, prefix: &str) -> Option<&'a str> {
    let depends = show
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"))?;
    depends
        .split([',', '|'])
        .filter_map(|part| part.split_whitespace().next())
        .find(|name| {
            // Not `linux-image-amd64` and its like.
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// `virtio_net` of `…/virtio_net.ko.xz`.
pub(super) fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    stem.replace('-', "_")
}

fn decompress(module: &Path, plain: &Path) -> Result<()> {
    let extension = module.extension().unwrap_or_default().to_string_lossy();
    let program = match &*extension {
        "ko" => {
            fs::copy(module, plain).with_context(|| format!("cannot copy {}", module.display()))?;
            return Ok(());
        }
        "xz" => "xz",
        "zst" => "zstd",
        other => bail!("{}: .{other} is no known compression", module.display()),
    };
    let output = fs::File::create(plain)?;
    shell::run(
        shell::command(program)
            .args(["--decompress", "--stdout", "--quiet"])
            .arg(module)
            .stdout(output),
    )
}

/// Calls `found` with every file below `folder`.
fn visit(folder: &Path, found: &mut impl FnMut(&Path)) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), found)?;
        } else {
            found(&entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
linux-image-amd64 | 7.3.4-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-image-amd64 | 6.12.117-1 | http://mirror.example/debian trixie/main amd64 Packages
";

    #[test]
    fn the_newest_of_a_suite_is_found() {
        assert_eq!(newest(MADISON, "trixie"), Some("6.12.117-1"));
        assert_eq!(newest(MADISON, "trixie-backports"), Some("7.3.4-1~bpo13+1"));
        assert_eq!(newest(MADISON, "bookworm"), None);
    }

    #[test]
    fn packages_are_found_by_what_is_depended_on() {
        let meta = "Package: linux-image-amd64\n\
                    Depends: linux-base-amd64 (= 7.3.4-1), linux-image-7.3.4+deb13-amd64 (= 7.3.4-1)\n";
        assert_eq!(
            dependency(meta, "linux-image-"),
            Some("linux-image-7.3.4+deb13-amd64")
        );
        assert_eq!(dependency(meta, "linux-base-"), None);
        assert_eq!(dependency("Package: x\n", "linux-image-"), None);
    }

    #[test]
    fn only_a_suite_that_goes_on_is_asked_again() {
        let week = Duration::from_hours(8 * 24);
        for kernel in super::super::matrix::KERNELS {
            assert!(is_fresh(&kernel, Duration::ZERO), "{}", kernel.name);
            assert_eq!(is_fresh(&kernel, week), kernel.name != "newest");
        }
    }

    #[test]
    fn modules_are_named_with_underscores() {
        for name in ["i2c-algo-bit.ko", "i2c-algo-bit.ko.xz", "i2c_algo_bit.ko"] {
            assert_eq!(module_name(Path::new(name)), "i2c_algo_bit");
        }
    }
}
