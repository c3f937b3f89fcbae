//! What a table of counters says about each of them.

/// How a counter is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows from zero; workers add up, two readings give a rate.
    Count,
    /// A state; workers add up.
    Gauge,
    /// A state of one worker that cannot be added up: of all workers the largest is shown.
    Last,
}

impl Kind {
    /// Word for documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Gauge => "gauge",
            Self::Last => "last value",
        }
    }

    /// One value for two workers.
    pub fn combine(self, one: u64, other: u64) -> u64 {
        match self {
            Self::Count | Self::Gauge => one.wrapping_add(other),
            Self::Last => one.max(other),
        }
    }
}

/// One counter of a `C`.
#[derive(Debug)]
pub struct Row<C: 'static> {
    /// Name in statistics.
    pub name: &'static str,
    /// Heading under which it is shown.
    pub section: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How it is read.
    pub kind: Kind,
    /// Katran's counters that mean the same, by the names of katran-compat section 10 (`0 v2`:
    /// offset 0, second value), with commas between them; empty if Katran has none.
    pub katran: &'static str,
    /// One sentence for operators.
    pub help: &'static str,
    /// Reads it.
    pub read: fn(&C) -> u64,
}

/// Makes a struct of counters and its table, [`Row`] by row, so that no counter is without one.
///
/// Fields in the first braces have tables of their own; then come sections of counters in the struct
/// itself, then groups: a struct each, and a section.
macro_rules! counter_table {
    (
        $(#[$doc:meta])*
        $Table:ident {
            $($(#[$other_doc:meta])* $other:ident: $Other:ty = $new:expr,)*
        }
        $($section:literal {
            $($field:ident = $name:literal, $kind:ident, $unit:literal, $katran:literal, $help:literal;)*
        })*
        $($(#[$group_doc:meta])* $group:ident: $Group:ident = $group_section:literal {
            $($own:ident = $own_name:literal, $own_kind:ident, $own_unit:literal, $own_katran:literal, $own_help:literal;)*
        })*
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $Table {
            $($(#[$other_doc])* pub $other: $Other,)*
            $($(#[doc = $help] pub $field: Counter,)*)*
            $($(#[$group_doc])* pub $group: $Group,)*
        }

        impl $Table {
            /// Every counter that is one number per worker, by section.
            pub const ROWS: &[Row<Self>] = &[
                $($(Row {
                    name: $name,
                    section: $section,
                    unit: $unit,
                    kind: Kind::$kind,
                    katran: $katran,
                    help: $help,
                    read: |counters| counters.$field.get(),
                },)*)*
                $($(Row {
                    name: $own_name,
                    section: $group_section,
                    unit: $own_unit,
                    kind: Kind::$own_kind,
                    katran: $own_katran,
                    help: $own_help,
                    read: |counters| counters.$group.$own.get(),
                },)*)*
            ];

            /// All zero.
            pub fn new() -> Self {
                Self {
                    $($other: $new,)*
                    $($($field: Counter::default(),)*)*
                    $($group: $Group::default(),)*
                }
            }
        }

        impl Default for $Table {
            fn default() -> Self {
                Self::new()
            }
        }

        $(
            $(#[$group_doc])*
            #[derive(Debug, Default)]
            pub struct $Group {
                $(#[doc = $own_help] pub $own: Counter,)*
            }
        )*
    };
}

pub(super) use counter_table;
