//! What is wrong with source routes, in the words of the configuration.

use dataplane::service::{MAX_SOURCE_ROUTES, SourceRouteError, SourceRouteSpec};

use super::problems::mask;

/// Key of the route's table that is wrong, the problem and the remedy. `earlier` names another route by
/// its place in the list.
pub(crate) fn describe(
    error: SourceRouteError,
    route: &SourceRouteSpec,
    earlier: impl Fn(usize) -> String,
) -> (&'static str, String, String) {
    let SourceRouteSpec {
        prefix,
        prefix_len,
        real,
    } = route;
    match error {
        SourceRouteError::Length | SourceRouteError::HostBits => (
            "prefix",
            format!("{prefix}/{prefix_len} has host bits set"),
            format!("write {}/{prefix_len}", mask(*prefix, *prefix_len)),
        ),
        SourceRouteError::Twice(first) => (
            "prefix",
            format!(
                "{prefix}/{prefix_len} is already the prefix of {}",
                earlier(first)
            ),
            "give each prefix once".to_owned(),
        ),
        SourceRouteError::Family => (
            "real",
            format!("{real} is an IPv4 real for IPv6 clients"),
            "give the real's IPv6 address".to_owned(),
        ),
        SourceRouteError::TooMany => (
            "prefix",
            format!("more than {MAX_SOURCE_ROUTES} source routes are too many"),
            "join neighbouring prefixes of one real".to_owned(),
        ),
        SourceRouteError::TooManyReals => (
            "real",
            error.to_string(),
            "send more prefixes to the same real".to_owned(),
        ),
    }
}
