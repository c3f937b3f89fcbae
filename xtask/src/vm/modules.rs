//! The order in which kernel modules are loaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};

/// Names of the modules that a module needs, with underscores: what its section `.modinfo` says.
pub(super) fn dependencies(module: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no module", module.display()))?;
    let section = file
        .section_by_name(".modinfo")
        .with_context(|| format!("{} says nothing about itself", module.display()))?;
    let information = section.data()?;
    Ok(depends(information))
}

/// The value of `depends=` among strings that end with a zero each.
fn depends(information: &[u8]) -> Vec<String> {
    information
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .map(|list| {
            String::from_utf8_lossy(list)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(|name| name.replace('-', "_"))
                .collect()
        })
        .unwrap_or_default()
}

/// Modules in `folder` with all they need, each behind what it needs. What there is no file of is
/// part of the kernel.
pub(super) fn in_order(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    fn add(folder: &Path, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let path = folder.join(format!("{name}.ko"));
        if order.contains(&path) || !path.is_file() {
            return Ok(());
        }
        for needed in dependencies(&path)? {
            add(folder, &needed, order)?;
        }
        order.push(path);
        Ok(())
    }
    let mut order = Vec::new();
    for name in names {
        add(folder, name, &mut order)?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_modules_are_read() {
        assert_eq!(
            depends(b"license=GPL\0depends=dca,i2c-algo-bit\0name=igb\0"),
            ["dca", "i2c_algo_bit"]
        );
        assert!(depends(b"depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
