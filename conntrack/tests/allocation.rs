//! The table allocates when it is made and never again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use conntrack::{FlowKeyV4, FlowTable, Insertion};

thread_local! {
    /// Allocations by this thread and their bytes.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting.
struct Counting;

impl Counting {
    fn count(bytes: usize) {
        let (allocations, sum) = ALLOCATED.get();
        ALLOCATED.set((allocations + 1, sum + bytes));
    }
}

// SAFETY: every method passes its arguments on to the system's allocator unchanged, so the
// contract the caller keeps is the one that allocator asks for. Counting touches a thread-local
// that needs neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(n: u32) -> FlowKeyV4 {
    FlowKeyV4 {
        source: n.to_be_bytes(),
        protocol: 17,
        ..FlowKeyV4::default()
    }
}

#[test]
fn all_memory_is_allocated_at_construction() {
    const CAPACITY: u32 = 5000;
    let (allocations, bytes) = ALLOCATED.get();
    let mut flows = FlowTable::new(CAPACITY as usize, [1, 2, 3, 4]).unwrap();
    let built = ALLOCATED.get();
    assert!(built.0 > allocations);
    assert_eq!(built.1 - bytes, flows.memory_bytes());
    assert_eq!(
        flows.memory_bytes(),
        FlowTable::<FlowKeyV4>::memory_for(CAPACITY as usize)
    );

    let mut evictions = 0;
    for n in 0..20 * CAPACITY {
        let hash = flows.hash(&key(n));
        let hint = flows.prefetch(hash);
        flows.prefetch_entry(hint, hash);
        if let Insertion::Evicted(_) = flows.insert(hash, key(n), n, u64::from(n)) {
            evictions += 1;
        }
        let other = key(n.wrapping_mul(0x9e37_79b9) % (n + 1));
        let hash = flows.hash(&other);
        flows.lookup(hash, &other, u64::from(n), Some(1000));
        flows.peek(hash, &other);
        if n % 7 == 0 {
            flows.remove(hash, &other);
        }
    }
    assert!(
        evictions > CAPACITY,
        "the table was meant to overflow, evictions: {evictions}"
    );
    assert!(flows.iter().count() > 0);
    assert!(flows.retain(|flow| flow.value % 2 == 0) > 0);
    assert_eq!(ALLOCATED.get(), built);
}
