//! The committed eBPF objects, and loading one into the kernel.

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, XskMap},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};

use crate::error::AttachError;

/// An object with one program of this name in it.
pub(crate) struct Object {
    name: &'static str,
    bytes: &'static [u8],
}

pub(crate) const REDIRECT: Object = Object {
    name: "redirect",
    bytes: aya::include_bytes_aligned!("../objects/redirect.o"),
};
pub(crate) const DECAP: Object = Object {
    name: "decap",
    bytes: aya::include_bytes_aligned!("../objects/decap.o"),
};
pub(crate) const BALANCER: Object = Object {
    name: "balancer",
    bytes: aya::include_bytes_aligned!("../objects/balancer.o"),
};
pub(crate) const DRIVER: Object = Object {
    name: "driver",
    bytes: aya::include_bytes_aligned!("../objects/driver.o"),
};
pub(crate) const PASS: Object = Object {
    name: "pass",
    bytes: aya::include_bytes_aligned!("../objects/pass.o"),
};
pub(crate) const GENERATOR: Object = Object {
    name: "generator",
    bytes: aya::include_bytes_aligned!("../objects/generator.o"),
};
pub(crate) const REFLECT: Object = Object {
    name: "reflect",
    bytes: aya::include_bytes_aligned!("../objects/reflect.o"),
};
pub(crate) const COUNT: Object = Object {
    name: "count",
    bytes: aya::include_bytes_aligned!("../objects/count.o"),
};
/// The program's name tells filters of ours from others'.
pub(crate) const HEALTH_CHECK: Object = Object {
    name: "kx_healthcheck",
    bytes: aya::include_bytes_aligned!("../objects/healthcheck.o"),
};

/// An object whose maps and program are in the kernel, attached to nothing.
pub(crate) struct Loaded {
    name: &'static str,
    ebpf: Ebpf,
}

impl Object {
    /// Name of the program.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Creates the maps and has the kernel verify the XDP program.
    pub(crate) fn load(&self) -> Result<Loaded, AttachError> {
        self.load_sized(&[])
    }

    /// As [`Object::load`], with these numbers of entries in maps instead of the object's.
    pub(crate) fn load_sized(&self, sizes: &[(&str, u32)]) -> Result<Loaded, AttachError> {
        let mut loaded = self.create(sizes)?;
        let result = loaded.program_mut()?.load();
        self.verified(loaded, result)
    }

    /// As [`Object::load`], for a tc program.
    pub(crate) fn load_classifier(&self) -> Result<Loaded, AttachError> {
        let mut loaded = self.create(&[])?;
        let result = loaded.classifier_mut()?.load();
        self.verified(loaded, result)
    }

    fn create(&self, sizes: &[(&str, u32)]) -> Result<Loaded, AttachError> {
        let mut loader = EbpfLoader::new();
        // The objects use nothing that depends on the kernel's types, so its BTF is not read.
        loader.btf(None);
        for (map, entries) in sizes {
            loader.map_max_entries(map, *entries);
        }
        let ebpf = loader
            .load(self.bytes)
            .map_err(|source| AttachError::load(self.name, source))?;
        Ok(Loaded {
            name: self.name,
            ebpf,
        })
    }

    fn verified(
        &self,
        loaded: Loaded,
        result: Result<(), ProgramError>,
    ) -> Result<Loaded, AttachError> {
        result.map_err(|source| AttachError::load(self.name, source.into()))?;
        Ok(loaded)
    }
}

impl Loaded {
    pub(crate) fn program_mut(&mut self) -> Result<&mut Xdp, AttachError> {
        self.of_type_mut()
    }

    pub(crate) fn program(&self) -> Result<&Xdp, AttachError> {
        self.of_type()
    }

    pub(crate) fn classifier_mut(&mut self) -> Result<&mut SchedClassifier, AttachError> {
        self.of_type_mut()
    }

    pub(crate) fn classifier(&self) -> Result<&SchedClassifier, AttachError> {
        self.of_type()
    }

    fn of_type_mut<'a, P>(&'a mut self) -> Result<&'a mut P, AttachError>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        self.ebpf
            .program_mut(self.name)
            .and_then(|program| program.try_into().ok())
            .ok_or(AttachError::Object {
                program: self.name,
                lacks: "program",
            })
    }

    fn of_type<'a, P>(&'a self) -> Result<&'a P, AttachError>
    where
        &'a P: TryFrom<&'a Program>,
    {
        self.ebpf
            .program(self.name)
            .and_then(|program| program.try_into().ok())
            .ok_or(AttachError::Object {
                program: self.name,
                lacks: "program",
            })
    }

    /// Takes a map out of the object, as the type that it has there.
    pub(crate) fn map<M>(&mut self, name: &'static str) -> Result<M, AttachError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        self.ebpf
            .take_map(name)
            .and_then(|map| M::try_from(map).ok())
            .ok_or(AttachError::Object {
                program: self.name,
                lacks: name,
            })
    }
}

/// Maps as this crate holds them: keys and values are bytes in the layouts of `xdp-layout`.
pub(crate) type HashTable<const K: usize, V> = HashMap<MapData, [u8; K], V>;
pub(crate) type PerCpuTable<const K: usize, V> = PerCpuHashMap<MapData, [u8; K], V>;
pub(crate) type PrefixTable<const K: usize, V> = LpmTrie<MapData, [u8; K], V>;
pub(crate) type Cells<V> = Array<MapData, V>;
pub(crate) type PerCpu<V> = PerCpuArray<MapData, V>;
pub(crate) type Sockets = XskMap<MapData>;

/// Sum of an entry over all CPUs.
pub(crate) fn total<V: Pod, S>(
    cells: &PerCpu<V>,
    index: u32,
    start: S,
    add: impl Fn(S, V) -> S,
) -> Result<S, MapError> {
    let values = cells.get(&index, 0)?;
    Ok(values.iter().fold(start, |sum, value| add(sum, *value)))
}
