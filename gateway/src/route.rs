//! Which route a request belongs to. What no route names is refused.

use http::Method;

use crate::policy::{Auth, PathPattern, Route};

/// All routes, most specific first: exact before prefix, longer before shorter.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<std::sync::Arc<Route>>,
}

/// What the table says of a method and a path.
#[derive(Debug)]
pub enum Match<'a> {
    /// This route takes it.
    Route(&'a std::sync::Arc<Route>),
    /// The path is known, not for this method.
    MethodNotAllowed {
        /// The methods that would be taken, as `Allow` wants them.
        allow: String,
        /// Whether a key route guards the path, so that nothing may be told without a key.
        guarded: bool,
    },
    /// Nothing has the path.
    NotFound {
        /// Whether a key route guards the path.
        guarded: bool,
    },
}

impl RouteTable {
    /// A table of these routes.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().map(std::sync::Arc::new).collect();
        routes.sort_by_key(|r| match &r.path {
            PathPattern::Exact(p) => (0, usize::MAX - p.len()),
            PathPattern::Below(p) => (1, usize::MAX - p.len()),
        });
        Self { routes }
    }

    /// The routes, most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(AsRef::as_ref)
    }

    /// What the table says. The most specific pattern that has the path decides; a method it does not
    /// take is not looked for in a less specific one, which would be a way around it.
    pub fn find(&self, method: &Method, path: &str) -> Match<'_> {
        let mut same = self
            .routes
            .iter()
            .filter(|r| r.path.matches(path))
            .peekable();
        let Some(pattern) = same.peek().map(|r| r.path.clone()) else {
            return Match::NotFound {
                guarded: self.guarded(path),
            };
        };
        let mut allow: Vec<&str> = Vec::new();
        for route in same.take_while(|r| r.path == pattern) {
            if route.methods.contains(method) {
                return Match::Route(route);
            }
            allow.extend(route.methods.iter().map(Method::as_str));
        }
        Match::MethodNotAllowed {
            allow: allow.join(", "),
            guarded: self.guarded(path),
        }
    }

    fn guarded(&self, path: &str) -> bool {
        self.routes
            .iter()
            .find(|r| r.path.guards(path))
            .is_some_and(|r| matches!(r.auth, Auth::ApiKey))
    }
}
