//! The form of a declaration: from one line come the field, the name, the help text and the row of the reference.
//!
//! To add a metric, add its declaration in [`crate::metrics`], with one of the types below, and run
//! `ORKET_WRITE_REFERENCE=1 cargo nextest run -p orket-tests ops_reference`. A new set of labels goes to
//! [`super::labels`].

use std::{collections::HashMap, fmt, hash::Hash};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::{Metric, Registry, Unit},
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
        format!("{}_{}", super::PREFIX, self.name)
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
pub(super) trait Kind {
    const KIND: &'static str;
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

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
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

/// Declares all metrics: the struct that holds them, the registry, and the table of the reference.
macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal; )+) => {
        /// All that is counted. Made once; shared by all.
        #[derive(Debug)]
        pub struct Metrics {
            $( $(#[doc = $help])+ pub $field: $kind, )+
            registry: Mutex<Registry>,
        }

        impl Metrics {
            /// Every metric, in the order of its declaration.
            pub const TABLE: &'static [Declared] = &[
                $( Declared {
                    name: $name,
                    help: concat!($($help),+).trim_ascii(),
                    kind: <$kind as declare::Kind>::KIND,
                    labels: <$kind as declare::Kind>::LABELS,
                }, )+
            ];

            /// All of them, at nothing.
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix(PREFIX);
                $( let $field = <$kind as declare::Kind>::registered(
                    &mut registry,
                    $name,
                    concat!($($help),+).trim_ascii(),
                ); )+
                Self { $( $field, )+ registry: Mutex::new(registry) }
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
macro_rules! labels {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $meaning:literal])+ $label:ident: $type:ty, )+ } )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
            pub struct $name { $( $(#[doc = $meaning])+ pub $label: $type, )+ }

            impl Labels for $name {
                const FACTS: &'static [LabelFacts] = &[
                    $( LabelFacts {
                        name: stringify!($label),
                        meaning: concat!($($meaning),+).trim_ascii(),
                    }, )+
                ];
            }
        )+
    };
}

pub(super) use {labels, metrics};
