//! Charts of the same figures, as SVG.

use std::error::Error;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Report, markdown::grouped};
use crate::bench::{
    row::{Case, Datapath, DecisionRow, IpFamily, Layout, Row, WireRow},
    statistics::Spread,
};

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";

/// Distinguishable also by who does not see red and green (Okabe and Ito).
const fn colour(datapath: Datapath) -> RGBColor {
    match datapath {
        Datapath::Xsk => RGBColor(0, 114, 178),
        Datapath::Kernel => RGBColor(213, 94, 0),
        Datapath::L2fwd => RGBColor(86, 180, 233),
        Datapath::Reflect => RGBColor(153, 153, 153),
    }
}

/// Charts with their file names; only those for which there are figures.
pub(crate) fn draw(report: &Report) -> Result<Vec<(String, String)>> {
    let mut charts = Vec::new();
    for &family in IpFamily::ALL {
        let rows: Vec<&DecisionRow> = report
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Decision(row) if row.family == family && row.workers == 1 => Some(row),
                _ => None,
            })
            .collect();
        if !rows.is_empty() {
            let chart = svg(|area| decision(area, family, &rows))?;
            charts.push((format!("decision-{family}.svg"), chart));
        }
    }
    for &layout in Layout::ALL {
        let rows: Vec<&WireRow> = report
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Wire(row) if row.layout == layout => Some(&**row),
                _ => None,
            })
            .collect();
        if !rows.is_empty() {
            let chart = svg(|area| wire(area, layout, &rows))?;
            charts.push((format!("wire-{layout}.svg"), chart));
        }
    }
    Ok(charts)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn svg(draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn Error>>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)
            .map_err(|error| anyhow!("cannot draw: {error}"))?;
        draw(&area).map_err(|error| anyhow!("cannot draw: {error}"))?;
        area.present()
            .map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    Ok(text)
}

/// Nanoseconds over flows, one line for each datapath and case.
fn decision(
    area: &Area<'_>,
    family: IpFamily,
    rows: &[&DecisionRow],
) -> Result<(), Box<dyn Error>> {
    let flows = |row: &&DecisionRow| row.flows as f64;
    let least = rows.iter().map(flows).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(flows).fold(0.0, f64::max);
    let top = rows
        .iter()
        .map(|row| row.ns_per_packet.max)
        .fold(1.0, f64::max);
    let bottom = rows
        .iter()
        .map(|row| row.ns_per_packet.min)
        .fold(top, f64::min)
        .max(1.0);
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("One decision, {family}, ns (log scale)"),
            (FONT, 18),
        )
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(
            ((least * 0.7)..(most * 1.5)).log_scale(),
            ((bottom * 0.7)..(top * 1.6)).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("flows")
        .x_label_formatter(&|flows| whole(*flows))
        .y_label_formatter(&|ns| format!("{ns:.0}"))
        .label_style((FONT, 13))
        .light_line_style(RGBColor(235, 235, 235))
        .draw()?;
    for &datapath in Datapath::ALL {
        for &case in Case::ALL {
            let line: Vec<(f64, Spread)> = rows
                .iter()
                .filter(|row| row.datapath == datapath && row.case == case)
                .map(|row| (row.flows as f64, row.ns_per_packet))
                .collect();
            if line.is_empty() {
                continue;
            }
            let colour = colour(datapath);
            let dashed = case == Case::New;
            let points = line.iter().map(|&(flows, ns)| (flows, ns.median));
            let legend = move |(x, y): (i32, i32)| {
                let end = if dashed { x + 8 } else { x + 18 };
                PathElement::new(vec![(x, y), (end, y)], colour.stroke_width(2))
            };
            if dashed {
                chart
                    .draw_series(DashedLineSeries::new(points, 6, 4, colour.stroke_width(2)))?
                    .label(format!("{datapath}, {case}"))
                    .legend(legend);
            } else {
                chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                    .label(format!("{datapath}, {case}"))
                    .legend(legend);
            }
            chart.draw_series(line.iter().map(|&(flows, ns)| {
                ErrorBar::new_vertical(flows, ns.min, ns.median, ns.max, colour.filled(), 7)
            }))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// Loss-free rates as bars, grouped by queues and flows.
fn wire(area: &Area<'_>, layout: Layout, rows: &[&WireRow]) -> Result<(), Box<dyn Error>> {
    let mut groups: Vec<(u32, u64)> = rows.iter().map(|row| (row.queues, row.flows)).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut kinds: Vec<(Datapath, Option<_>)> = rows
        .iter()
        .map(|row| (row.datapath, row.scheduling))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let top = rows.iter().map(|row| row.mpps.max).fold(0.01, f64::max);
    let width = groups.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Loss-free rate, {layout}, Mpps"), (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..width, 0.0..top * 1.25)?;
    let names = groups.clone();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(groups.len() * 2 + 1)
        .x_label_formatter(&move |at| group_label(*at, &names))
        .label_style((FONT, 13))
        .light_line_style(RGBColor(235, 235, 235))
        .draw()?;
    let bar = 0.8 / kinds.len() as f64;
    for (place, &(datapath, scheduling)) in kinds.iter().enumerate() {
        let colour = match scheduling {
            Some(crate::bench::row::Scheduling::Normal) => colour(datapath).mix(0.5),
            _ => colour(datapath).mix(1.0),
        };
        let bars: Vec<(f64, Spread)> = rows
            .iter()
            .filter(|row| (row.datapath, row.scheduling) == (datapath, scheduling))
            .filter_map(|row| {
                let group = groups
                    .iter()
                    .position(|&group| group == (row.queues, row.flows))?;
                Some((group as f64 + 0.1 + bar * place as f64, row.mpps))
            })
            .collect();
        let label = scheduling.map_or_else(
            || datapath.to_string(),
            |scheduling| format!("{datapath}, {scheduling}"),
        );
        chart
            .draw_series(bars.iter().map(|&(left, mpps)| {
                Rectangle::new(
                    [(left, 0.0), (left + bar * 0.92, mpps.median)],
                    colour.filled(),
                )
            }))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        chart.draw_series(bars.iter().map(|&(left, mpps)| {
            ErrorBar::new_vertical(
                left + bar * 0.46,
                mpps.min,
                mpps.median,
                mpps.max,
                BLACK.filled(),
                5,
            )
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// A number of flows on an axis.
fn whole(flows: f64) -> String {
    let digits = format!("{flows:.0}");
    digits.parse().map_or(digits, grouped)
}

/// The group's name in the middle of its bars, nothing elsewhere.
fn group_label(at: f64, groups: &[(u32, u64)]) -> String {
    let is_middle = |place: usize| (place as f64 + 0.5 - at).abs() < 0.01;
    groups
        .iter()
        .enumerate()
        .find(|&(place, _)| is_middle(place))
        .map(|(_, &(queues, flows))| {
            let plural = if queues == 1 { "queue" } else { "queues" };
            format!("{queues} {plural}, {} flows", grouped(flows))
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn there_is_a_chart_for_what_was_measured() {
        let charts = draw(&report()).expect("charts");
        let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["decision-ipv4.svg", "wire-split.svg"]);
        let text = |at: usize| charts[at].1.as_str();
        assert!(text(0).starts_with("<svg") && text(0).trim_end().ends_with("</svg>"));
        for label in ["xsk, hit", "kernel, hit", "10,000,000"] {
            assert!(text(0).contains(label), "{label} in {}", text(0));
        }
        for label in ["xsk, rt", "1 queue, 1,000 flows"] {
            assert!(text(1).contains(label), "{label} in {}", text(1));
        }
    }

    #[test]
    fn groups_are_named_in_their_middle() {
        let groups = [(1, 1000), (2, 100_000)];
        assert_eq!(group_label(0.5, &groups), "1 queue, 1,000 flows");
        assert_eq!(group_label(1.5, &groups), "2 queues, 100,000 flows");
        assert_eq!(group_label(1.0, &groups), "");
        assert_eq!(group_label(2.5, &groups), "");
    }
}
