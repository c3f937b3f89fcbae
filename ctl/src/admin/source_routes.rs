//! Source routes, for people.

use std::net::IpAddr;

use dataplane::service::{SourceRouteSpec, SourceRoutes};

use super::{
    command::Page,
    report::{SourceRouteAnswer, SourceRouteList, SourceRouteRow},
};

fn row(route: &SourceRouteSpec) -> SourceRouteRow {
    SourceRouteRow {
        prefix: format!("{}/{}", route.prefix, route.prefix_len),
        real: route.real,
    }
}

/// `src-route list`.
pub(super) fn list(
    routes: &SourceRoutes,
    within: Option<(IpAddr, u8)>,
    real: Option<IpAddr>,
    page: Page,
) -> SourceRouteList {
    let wanted = |route: &SourceRouteSpec| real.is_none_or(|real| real == route.real);
    let mut total = 0;
    let mut rows = Vec::new();
    let mut take = |route: SourceRouteSpec| {
        if total >= page.offset && rows.len() < page.limit {
            rows.push(row(&route));
        }
        total += 1;
    };
    match within {
        None => routes.iter().filter(wanted).for_each(&mut take),
        Some((prefix, prefix_len)) => {
            let routes = routes.within(prefix, prefix_len).into_iter();
            routes.filter(wanted).for_each(&mut take);
        }
    }
    SourceRouteList {
        total,
        offset: page.offset,
        routes: rows,
    }
}

/// `src-route get`.
pub(super) fn get(routes: &SourceRoutes, client: IpAddr) -> SourceRouteAnswer {
    SourceRouteAnswer {
        client,
        route: routes.route_of(client).as_ref().map(row),
    }
}
