//! The form of a declared metric: from one line come the field, the name, the help text and the row of the reference.
//!
//! A program declares all of its metrics in its `metrics.rs` with [`declare_metrics!`](crate::declare_metrics) and the
//! types below, its sets of labels with [`declare_labels!`](crate::declare_labels) in `metrics/labels.rs`. To add one, add its
//! declaration and run `ORKET_WRITE_REFERENCE=1 cargo nextest run -p orket-tests ops_reference`.

use std::{collections::HashMap, fmt, hash::Hash};

pub use parking_lot::Mutex;
use parking_lot::RwLock;
pub use prometheus_client::registry::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::{Metric, Unit},
};

/// A number that only grows.
pub type Counter = prometheus_client::metrics::counter::Counter;

/// A number as it stands.
pub type Gauge = prometheus_client::metrics::gauge::Gauge;

/// One label, for the reference: its name and its values.
#[derive(Debug, Clone, Copy)]
pub struct LabelFacts {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub meaning: &'static str,
}

/// A set of labels that says what its labels are.
pub trait Labels: EncodeLabelSet + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static {
    /// Its labels, in order.
    const FACTS: &'static [LabelFacts];
}

/// A declared metric, for the reference and the tests.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// What every name of its program begins with.
    pub prefix: &'static str,
    /// Its name without the prefix and what its type adds.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [LabelFacts],
}

impl Declared {
    /// The name of the family, as `# HELP` and `# TYPE` have it.
    pub fn family(&self) -> String {
        format!("{}_{}", self.prefix, self.name)
    }

    /// The name its samples have, as a query names it.
    pub fn exposed(&self) -> String {
        match self.kind {
            "counter" => format!("{}_total", self.family()),
            _ => self.family(),
        }
    }
}

/// What can be declared.
pub trait Kind {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;
    /// Its labels.
    const LABELS: &'static [LabelFacts];
    /// Makes it, and makes it known under this name.
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self;
}

/// Registers a metric; a name that ends in a base unit says so to the scraper, too.
fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    for (suffix, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
        if let Some(stem) = name.strip_suffix(suffix) {
            registry.register_with_unit(stem, help, unit, metric);
            return;
        }
    }
    registry.register(name, help, metric);
}

impl Kind for Counter {
    const KIND: &'static str = "counter";
    const LABELS: &'static [LabelFacts] = &[];
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let counter = Self::default();
        register(registry, name, help, counter.clone());
        counter
    }
}

impl Kind for Gauge {
    const KIND: &'static str = "gauge";
    const LABELS: &'static [LabelFacts] = &[];
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let gauge = Self::default();
        register(registry, name, help, gauge.clone());
        gauge
    }
}

/// Counters by labels.
#[derive(Debug)]
pub struct Counters<L: Labels>(Series<L, Counter, fn() -> Counter>);

impl<L: Labels> Counters<L> {
    /// Counts one.
    pub fn inc(&self, labels: &L) {
        self.0.with(labels, Counter::inc);
    }

    /// Counts several.
    pub fn inc_by(&self, labels: &L, count: u64) {
        self.0.with(labels, |counter| counter.inc_by(count));
    }

    /// How many were counted.
    pub fn count(&self, labels: &L) -> u64 {
        self.0.with(labels, Counter::get)
    }
}

impl<L: Labels> Kind for Counters<L> {
    const KIND: &'static str = "counter";
    const LABELS: &'static [LabelFacts] = L::FACTS;
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self(Series::registered(
            registry,
            name,
            help,
            Counter::default as fn() -> Counter,
        ))
    }
}

/// Numbers as they stand, by labels.
#[derive(Debug)]
pub struct Gauges<L: Labels>(Family<L, Gauge>);

impl<L: Labels> Gauges<L> {
    /// States one number. One beyond `i64` is stated as the largest there is.
    pub fn set(&self, labels: &L, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.get_or_create(labels).set(value);
    }

    /// One more.
    pub fn inc(&self, labels: &L) {
        self.0.get_or_create(labels).inc();
    }

    /// One less.
    pub fn dec(&self, labels: &L) {
        self.0.get_or_create(labels).dec();
    }

    /// Forgets all numbers.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl<L: Labels> Kind for Gauges<L> {
    const KIND: &'static str = "gauge";
    const LABELS: &'static [LabelFacts] = L::FACTS;
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        register(registry, name, help, family.clone());
        Self(family)
    }
}

/// From half a millisecond to half a minute.
const SECONDS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// From nothing at all to 16 MiB.
const BYTES: [f64; 9] = [
    0.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
];

/// From a millisecond to a day.
const LONG: [f64; 16] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
    43_200.0, 86_400.0,
];

/// Powers of two.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn long() -> Histogram {
    Histogram::new(LONG)
}

fn bytes() -> Histogram {
    Histogram::new(BYTES)
}

/// How long something took, by labels.
#[derive(Debug)]
pub struct Seconds<L: Labels>(Series<L, Histogram, fn() -> Histogram>);

impl<L: Labels> Seconds<L> {
    /// Takes one in.
    pub fn observe(&self, labels: &L, time: std::time::Duration) {
        self.0.with(labels, |h| h.observe(time.as_secs_f64()));
    }
}

impl<L: Labels> Kind for Seconds<L> {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [LabelFacts] = L::FACTS;
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self(Series::registered(registry, name, help, seconds))
    }
}

/// How long something lasted that may take a day, by labels.
#[derive(Debug)]
pub struct LongSeconds<L: Labels>(Series<L, Histogram, fn() -> Histogram>);

impl<L: Labels> LongSeconds<L> {
    /// Takes one in.
    pub fn observe(&self, labels: &L, time: std::time::Duration) {
        self.0.with(labels, |h| h.observe(time.as_secs_f64()));
    }
}

impl<L: Labels> Kind for LongSeconds<L> {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [LabelFacts] = L::FACTS;
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self(Series::registered(registry, name, help, long))
    }
}

/// How long something took, without labels.
#[derive(Debug)]
pub struct Time(Histogram);

impl Time {
    /// Takes one in.
    pub fn observe(&self, time: std::time::Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

impl Kind for Time {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [LabelFacts] = &[];
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let histogram = seconds();
        register(registry, name, help, histogram.clone());
        Self(histogram)
    }
}

/// How many of something there were at a time, without labels.
#[derive(Debug)]
pub struct Sizes(Histogram);

impl Sizes {
    /// Takes one in.
    pub fn observe(&self, count: usize) {
        self.0
            .observe(u32::try_from(count).map_or(f64::MAX, f64::from));
    }
}

impl Kind for Sizes {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [LabelFacts] = &[];
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let histogram = Histogram::new(COUNTS);
        register(registry, name, help, histogram.clone());
        Self(histogram)
    }
}

/// How large something was, by labels.
#[derive(Debug)]
pub struct Bytes<L: Labels>(Series<L, Histogram, fn() -> Histogram>);

impl<L: Labels> Bytes<L> {
    /// Takes one in.
    pub fn observe(&self, labels: &L, bytes: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "sizes beyond 2^52 bytes do not occur"
        )]
        self.0.with(labels, |h| h.observe(bytes as f64));
    }
}

impl<L: Labels> Kind for Bytes<L> {
    const KIND: &'static str = "histogram";
    const LABELS: &'static [LabelFacts] = L::FACTS;
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self(Series::registered(registry, name, help, bytes))
    }
}

/// A family and a way to its series that a scrape, which holds the family while it reads, is not in: only the
/// first request with new labels may wait.
struct Series<L, M, C> {
    family: Family<L, M, C>,
    known: RwLock<HashMap<L, M>>,
}

impl<L, M, C> fmt::Debug for Series<L, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().len();
        f.debug_struct("Series")
            .field("known", &known)
            .finish_non_exhaustive()
    }
}

impl<L, M, C> Series<L, M, C>
where
    L: Labels,
    M: Clone,
    C: MetricConstructor<M> + Clone,
    Family<L, M, C>: Metric,
{
    fn registered(registry: &mut Registry, name: &str, help: &str, make: C) -> Self {
        let family = Family::new_with_constructor(make);
        register(registry, name, help, family.clone());
        Self {
            family,
            known: RwLock::default(),
        }
    }

    fn with<T>(&self, labels: &L, f: impl FnOnce(&M) -> T) -> T {
        if let Some(series) = self.known.read().get(labels) {
            return f(series);
        }
        let series = self.family.get_or_create_owned(labels);
        let value = f(&series);
        self.known.write().insert(labels.clone(), series);
        value
    }
}

/// Declares all metrics of a program, under its prefix: the struct that holds them, the registry, and the table of the
/// reference.
#[macro_export]
macro_rules! declare_metrics {
    ($prefix:ident: $( $(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal; )+) => {
        /// All that is counted. Made once; shared by all.
        #[derive(Debug)]
        pub struct Metrics {
            $( $(#[doc = $help])+ pub $field: $kind, )+
            registry: $crate::metrics::Mutex<$crate::metrics::Registry>,
        }

        impl Metrics {
            /// Every metric, in the order of its declaration.
            pub const TABLE: &'static [$crate::metrics::Declared] = &[
                $( $crate::metrics::Declared {
                    prefix: $prefix,
                    name: $name,
                    help: concat!($($help),+).trim_ascii(),
                    kind: <$kind as $crate::metrics::Kind>::KIND,
                    labels: <$kind as $crate::metrics::Kind>::LABELS,
                }, )+
            ];

            /// All of them, at nothing.
            pub fn new() -> Self {
                let mut registry = $crate::metrics::Registry::with_prefix($prefix);
                $( let $field = <$kind as $crate::metrics::Kind>::registered(
                    &mut registry,
                    $name,
                    concat!($($help),+).trim_ascii(),
                ); )+
                Self { $( $field, )+ registry: $crate::metrics::Mutex::new(registry) }
            }
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

/// Declares sets of labels. The doc comment of a label says what its values are.
#[macro_export]
macro_rules! declare_labels {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $meaning:literal])+ $label:ident: $type:ty, )+ } )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
            pub struct $name { $( $(#[doc = $meaning])+ pub $label: $type, )+ }

            impl $crate::metrics::Labels for $name {
                const FACTS: &'static [$crate::metrics::LabelFacts] = &[
                    $( $crate::metrics::LabelFacts {
                        name: stringify!($label),
                        meaning: concat!($($meaning),+).trim_ascii(),
                    }, )+
                ];
            }
        )+
    };
}
