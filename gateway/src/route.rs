//! Which route a request belongs to. What no route names is refused.

use std::{collections::HashMap, sync::Arc};

use http::Method;

use crate::policy::{Auth, PathPattern, Route};

/// All routes, found by path in a few look-ups however many there are.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    /// Routes of one exact path.
    exact: HashMap<String, Vec<Arc<Route>>>,
    /// Routes below one prefix, which ends in `/`.
    below: HashMap<String, Vec<Arc<Route>>>,
    /// The most segments a prefix has: longer paths need no further look-ups.
    depth: usize,
}

/// What the table says of a method and a path.
#[derive(Debug)]
pub enum Match<'a> {
    /// This route takes it.
    Route(&'a Arc<Route>),
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
        let mut table = Self::default();
        for route in routes.into_iter().map(Arc::new) {
            table.routes.push(route.clone());
            match &route.path {
                PathPattern::Exact(path) => {
                    table.exact.entry(path.clone()).or_default().push(route);
                }
                PathPattern::Below(prefix) => {
                    table.depth = table.depth.max(prefix.matches('/').count());
                    table.below.entry(prefix.clone()).or_default().push(route);
                }
            }
        }
        table
    }

    /// The routes, as the policy has them.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(AsRef::as_ref)
    }

    /// What the table says. The most specific pattern that has the path decides (exact before prefix,
    /// longer before shorter); a method it does not take is not looked for in a less specific one,
    /// which would be a way around it.
    pub fn find(&self, method: &Method, path: &str) -> Match<'_> {
        let Some(routes) = self.most_specific(path, |prefix| prefix.len() < path.len()) else {
            return Match::NotFound {
                guarded: self.is_guarded(path),
            };
        };
        match routes.iter().find(|r| r.methods.contains(method)) {
            Some(route) => Match::Route(route),
            None => Match::MethodNotAllowed {
                allow: allowed(routes),
                guarded: self.is_guarded(path),
            },
        }
    }

    /// The routes of the most specific pattern for a path, among those prefixes that `counts`.
    fn most_specific(&self, path: &str, counts: impl Fn(&str) -> bool) -> Option<&[Arc<Route>]> {
        if let Some(routes) = self.exact.get(path) {
            return Some(routes);
        }
        // At most `depth` look-ups, whatever the length of the path.
        let mut found = None;
        for (end, _) in path.match_indices('/').take(self.depth) {
            let prefix = &path[..=end];
            if counts(prefix) {
                found = self.below.get(prefix).or(found);
            }
        }
        found.map(Vec::as_slice)
    }

    /// Whether a key route guards the ground of a path: what it matches, and its bare prefix.
    fn is_guarded(&self, path: &str) -> bool {
        self.most_specific(path, |_| true)
            .is_some_and(|routes| routes.iter().any(|r| matches!(r.auth, Auth::ApiKey)))
    }
}

/// The methods routes of one pattern take, as `Allow` wants them.
fn allowed(routes: &[Arc<Route>]) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for method in routes.iter().flat_map(|r| &r.methods) {
        if !methods.contains(&method.as_str()) {
            methods.push(method.as_str());
        }
    }
    methods.join(", ")
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::policy::{Origin, load};

    fn table() -> RouteTable {
        let text = r#"
version = 1
[posture]
environment = "local"
[upstreams.b]
address = "127.0.0.1:1"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "POST"]
auth = { kind = "api_key" }
upstream = "b"
[[routes]]
id = "open"
path = "/v1/open/*"
methods = ["GET"]
auth = { kind = "none" }
upstream = "b"
[[routes]]
id = "one"
path = "/v1/open/one"
methods = ["PUT"]
auth = { kind = "api_key" }
upstream = "b"
[[routes]]
id = "two"
path = "/two"
methods = ["GET"]
auth = { kind = "none" }
upstream = "b"
"#;
        load::load(text, "t", Origin::BuiltIn, &|_| None)
            .unwrap_or_else(|d| panic!("{d}"))
            .policy
            .routes
    }

    fn says(method: &Method, path: &str) -> String {
        match table().find(method, path) {
            Match::Route(r) => r.id.to_string(),
            Match::MethodNotAllowed { allow, guarded } => format!("405 {allow} {guarded}"),
            Match::NotFound { guarded } => format!("404 {guarded}"),
        }
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        for (method, path, expected) in [
            (Method::GET, "/v1/runs", "api"),
            (Method::GET, "/v1/runs/1/logs", "api"),
            (Method::GET, "/v1/open", "api"),
            (Method::GET, "/v1/open/two", "open"),
            (Method::PUT, "/v1/open/one", "one"),
            (Method::GET, "/v1/open/one", "405 PUT true"),
            (Method::POST, "/v1/open/two", "405 GET false"),
            (Method::DELETE, "/v1/runs", "405 GET, POST true"),
            (Method::GET, "/v1/", "404 true"),
            (Method::GET, "/v1", "404 false"),
            (Method::GET, "/V1/runs", "404 false"),
            (Method::GET, "/two", "two"),
            (Method::GET, "/two/", "404 false"),
            (Method::GET, "/", "404 false"),
        ] {
            assert_eq!(says(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_path_of_many_segments_costs_no_more_look_ups() {
        let path = format!("/v1{}", "/a".repeat(4000));
        assert_eq!(says(&Method::GET, &path), "api");
    }
}
