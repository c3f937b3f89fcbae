//! Who has which chunk of a UMEM.
//!
//! Safety of the whole port rests on this table: memory is handed out only for a chunk that moves
//! from [`Place::Kernel`] to [`Place::Hands`] here, whatever the rings say.

/// Where a chunk is, as far as userspace can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On the free list.
    Free,
    /// Given to the kernel for a frame to come: fill ring, driver or RX ring.
    Kernel,
    /// In the worker's hands.
    Hands,
    /// Given to the kernel to transmit: TX ring, driver or completion ring.
    Transmit,
}

/// What to make of a descriptor from the RX ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The chunk is in the worker's hands now.
    Good,
    /// The chunk was the kernel's, but the bytes lie outside it; it belongs on the free list.
    BadLength,
    /// The kernel had no such chunk.
    Unknown,
}

/// Table and running totals.
#[derive(Debug)]
pub(super) struct Ledger {
    places: Box<[Place]>,
    chunk_shift: u32,
    /// Chunks owed by the kernel for frames to come. Ring entries, not table entries: an entry with
    /// a wrong address pays the debt of some chunk, and that chunk is lost.
    kernel: usize,
    /// Chunks in the worker's hands.
    hands: usize,
    /// Chunks owed by the kernel for frames on their way out.
    transmit: usize,
}

impl Ledger {
    /// All chunks are on the free list. `chunk_size` is a power of two.
    pub(super) fn new(chunks: usize, chunk_size: usize) -> Self {
        Self {
            places: vec![Place::Free; chunks].into_boxed_slice(),
            chunk_shift: chunk_size.trailing_zeros(),
            kernel: 0,
            hands: 0,
            transmit: 0,
        }
    }

    /// Number of chunks.
    pub(super) const fn total(&self) -> usize {
        self.places.len()
    }

    /// Chunks the kernel owes for frames to come.
    pub(super) const fn kernel(&self) -> usize {
        self.kernel
    }

    /// Chunks in the worker's hands.
    pub(super) const fn hands(&self) -> usize {
        self.hands
    }

    /// Chunks the kernel owes for frames on their way out.
    pub(super) const fn transmit(&self) -> usize {
        self.transmit
    }

    fn place(&mut self, address: usize) -> Option<&mut Place> {
        self.places.get_mut(address >> self.chunk_shift)
    }

    /// A free chunk goes to the fill ring.
    #[inline]
    pub(super) fn fill(&mut self, address: usize) {
        if let Some(place) = self.place(address) {
            debug_assert_eq!(*place, Place::Free);
            *place = Place::Kernel;
            self.kernel += 1;
        }
    }

    /// The RX ring names a chunk and a length.
    #[inline]
    pub(super) fn receive(&mut self, address: usize, len: usize) -> Arrival {
        self.kernel = self.kernel.saturating_sub(1);
        let chunk_size = 1_usize << self.chunk_shift;
        let room = chunk_size - (address & (chunk_size - 1));
        let Some(place) = self.place(address).filter(|place| **place == Place::Kernel) else {
            return Arrival::Unknown;
        };
        if len > room {
            *place = Place::Free;
            return Arrival::BadLength;
        }
        *place = Place::Hands;
        self.hands += 1;
        Arrival::Good
    }

    /// A chunk goes from the worker's hands to the TX ring.
    #[inline]
    pub(super) fn send(&mut self, address: usize) {
        if let Some(place) = self.place(address) {
            debug_assert_eq!(*place, Place::Hands);
            *place = Place::Transmit;
            self.hands -= 1;
            self.transmit += 1;
        }
    }

    /// A chunk goes from the worker's hands to the free list.
    #[inline]
    pub(super) fn recycle(&mut self, address: usize) {
        if let Some(place) = self.place(address) {
            debug_assert_eq!(*place, Place::Hands);
            *place = Place::Free;
            self.hands -= 1;
        }
    }

    /// The completion ring names a chunk; whether it was one on its way out, which belongs on the
    /// free list now.
    #[inline]
    pub(super) fn complete(&mut self, address: usize) -> bool {
        self.transmit = self.transmit.saturating_sub(1);
        let place = self
            .place(address)
            .filter(|place| **place == Place::Transmit);
        place.map(|place| *place = Place::Free).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKS: usize = 16;
    const CHUNK: usize = 2048;

    impl Ledger {
        fn count(&self, wanted: Place) -> usize {
            self.places.iter().filter(|place| **place == wanted).count()
        }
    }

    #[test]
    fn a_chunk_is_handed_out_once() {
        let mut ledger = Ledger::new(CHUNKS, CHUNK);
        ledger.fill(CHUNK + 256);
        assert_eq!(ledger.receive(CHUNK + 236, 80), Arrival::Good);
        assert_eq!(ledger.receive(CHUNK + 236, 80), Arrival::Unknown);
        ledger.send(CHUNK + 236);
        assert_eq!(ledger.receive(CHUNK + 236, 80), Arrival::Unknown);
        assert!(ledger.complete(CHUNK + 236));
        assert!(!ledger.complete(CHUNK + 236));
        assert_eq!(ledger.receive(CHUNK + 236, 80), Arrival::Unknown);
    }

    #[test]
    fn addresses_outside_the_memory_are_unknown() {
        let mut ledger = Ledger::new(CHUNKS, CHUNK);
        (0..CHUNKS).for_each(|chunk| ledger.fill(chunk * CHUNK));
        assert_eq!(ledger.receive(CHUNKS * CHUNK, 0), Arrival::Unknown);
        assert_eq!(ledger.receive(usize::MAX, 1), Arrival::Unknown);
        assert!(!ledger.complete(usize::MAX));
        // Two debts were paid with nothing.
        assert_eq!(ledger.kernel(), CHUNKS - 2);
    }

    #[test]
    fn bytes_must_lie_inside_the_chunk() {
        let mut ledger = Ledger::new(CHUNKS, CHUNK);
        (0..CHUNKS).for_each(|chunk| ledger.fill(chunk * CHUNK));
        assert_eq!(ledger.receive(256, CHUNK - 256), Arrival::Good);
        assert_eq!(ledger.receive(CHUNK + 256, CHUNK - 255), Arrival::BadLength);
        assert_eq!(
            ledger.receive(2 * CHUNK + 256, usize::MAX),
            Arrival::BadLength
        );
        assert_eq!(ledger.count(Place::Free), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// 512 cases of up to 4,096 steps, a million on average. An honest kernel and worker: every
        /// chunk is in one place and the totals agree with the table after each step.
        #[test]
        fn totals_agree_with_the_table(
            steps in prop::collection::vec((0_u8..5, 0..CHUNKS), 1..4_096),
        ) {
            let mut ledger = Ledger::new(CHUNKS, CHUNK);
            for (step, chunk) in steps {
                let address = chunk * CHUNK + 256;
                let place = ledger.places[chunk];
                match (step, place) {
                    (0, Place::Free) => ledger.fill(address),
                    (1, Place::Kernel) => {
                        prop_assert_eq!(ledger.receive(address, 100), Arrival::Good);
                    }
                    (2, Place::Hands) => ledger.send(address),
                    (3, Place::Hands) => ledger.recycle(address),
                    (4, Place::Transmit) => prop_assert!(ledger.complete(address)),
                    _ => continue,
                }
                prop_assert_eq!(ledger.kernel(), ledger.count(Place::Kernel));
                prop_assert_eq!(ledger.hands(), ledger.count(Place::Hands));
                prop_assert_eq!(ledger.transmit(), ledger.count(Place::Transmit));
            }
        }

        /// Whatever the rings say, a chunk never comes into the worker's hands twice.
        #[test]
        fn a_lying_kernel_cannot_hand_out_a_chunk_twice(
            steps in prop::collection::vec((any::<bool>(), 0..CHUNKS * CHUNK * 2, 0..CHUNK * 2), 1..512),
        ) {
            let mut ledger = Ledger::new(CHUNKS, CHUNK);
            (0..CHUNKS).for_each(|chunk| ledger.fill(chunk * CHUNK));
            let mut held = std::collections::HashSet::new();
            for (rx, address, len) in steps {
                if !rx {
                    ledger.complete(address);
                } else if ledger.receive(address, len) == Arrival::Good {
                    prop_assert!(held.insert(address / CHUNK));
                    prop_assert!(address % CHUNK + len <= CHUNK);
                }
                prop_assert_eq!(ledger.count(Place::Hands), held.len());
            }
        }
    }
}
