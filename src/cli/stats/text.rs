//! The table of `stats`.

use std::io::{self, Write};

use crate::cli::counted;
use crate::telemetry::report::{AheadReport, EndpointReport, LatencyReport, SessionReport, Stats};

/// Prints what a server says; rates since `last`, or since the sessions began.
pub(super) fn print(stats: &Stats, last: Option<&Stats>, out: &mut dyn Write) -> io::Result<()> {
    print_server(stats, last, out)?;
    if stats.sessions.is_empty() {
        writeln!(out, "\nno device is in use")?;
    }
    for session in &stats.sessions {
        let is_same = |other: &&SessionReport| {
            (&other.bus_id, &other.peer) == (&session.bus_id, &session.peer)
                && other.uptime_us <= session.uptime_us
        };
        let last = last.and_then(|last| last.sessions.iter().find(is_same));
        writeln!(out)?;
        print_session(session, last, out)?;
    }
    Ok(())
}

fn print_server(stats: &Stats, last: Option<&Stats>, out: &mut dyn Write) -> io::Result<()> {
    let server = &stats.server;
    let sum = |stats: &Stats, of: fn(&crate::telemetry::report::CoreReport) -> u64| {
        stats.cores.iter().map(of).sum::<u64>()
    };
    let since = |of| sum(stats, of) - last.map_or(0, |last| sum(last, of).min(sum(stats, of)));
    let (urbs, calls) = (since(|core| core.urbs), since(|core| core.system_calls));
    let arenas: usize = stats.cores.iter().map(|core| core.arena_bytes).sum();
    writeln!(
        out,
        "server {}, process {}, at {}, up {}",
        server.version,
        server.process_id,
        server.listen.join(" "),
        duration(server.uptime_us)
    )?;
    let sessions: Vec<_> = stats.cores.iter().map(|core| core.sessions.to_string()).collect();
    let in_use = sessions.join("+");
    write!(
        out,
        "  {} exported, in use {in_use} on {}\n  {urbs} URBs",
        counted(server.devices, "device"),
        counted(server.cores, "core"),
    )?;
    if urbs > 0 {
        write!(out, ", {:.2} system calls each", calls as f64 / urbs as f64)?;
    }
    writeln!(out, ", {:.1} MiB of memory for them", arenas as f64 / f64::from(1 << 20))?;
    for core in 0..server.cores {
        if !stats.cores.iter().any(|report| report.core == core) {
            writeln!(out, "  core {core} does not answer: a call in it hangs")?;
        }
    }
    Ok(())
}

fn print_session(
    session: &SessionReport,
    last: Option<&SessionReport>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let SessionReport { bus_id, vendor_id, product_id, name, peer, .. } = session;
    let state = match session.state.as_str() {
        "running" => String::new(),
        other => format!(", {other}"),
    };
    writeln!(
        out,
        "{bus_id}  {vendor_id}:{product_id} {name}  for {peer}, up {}{state}",
        duration(session.uptime_us)
    )?;
    let seconds = seconds_since(session, last);
    let rate = |of: fn(&SessionReport) -> u64| {
        of(session).saturating_sub(last.map_or(0, of)) as f64 / seconds
    };
    writeln!(
        out,
        "  from client {} MB/s, to client {} MB/s, network held up {:.1} %\n  \
         device busy {:.1} %, {} refused, {} unlinks",
        decimal(rate(|of| of.received_bytes) / 1e6),
        decimal(rate(|of| of.sent_bytes) / 1e6),
        rate(|of| of.send_blocked_us) / 1e4,
        rate(|of| of.device_busy_us) / 1e4,
        session.refused,
        session.unlinks
    )?;
    if session.endpoints.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "  {:<13} {:>8} {:>9} {:>9} {:>7} {:>8} {:>12}  {:>20}",
        "endpoint",
        "URB/s",
        "packets/s",
        "MB/s",
        "errors",
        "missed",
        "low/now/max",
        "p50/p99/max µs"
    )?;
    for endpoint in &session.endpoints {
        let last = last
            .and_then(|last| last.endpoints.iter().find(|other| other.address == endpoint.address));
        print_endpoint(endpoint, last, seconds, out)?;
    }
    for endpoint in &session.endpoints {
        if let Some(ahead) = &endpoint.ahead {
            print_ahead(endpoint, ahead, out)?;
        }
    }
    session.endpoints.iter().filter_map(hint).try_for_each(|hint| writeln!(out, "  {hint}"))
}

fn print_endpoint(
    endpoint: &EndpointReport,
    last: Option<&EndpointReport>,
    seconds: f64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rate = |of: fn(&EndpointReport) -> u64| {
        of(endpoint).saturating_sub(last.map_or(0, of)) as f64 / seconds
    };
    let low = endpoint.in_flight_low.map_or_else(|| "-".to_owned(), |low| low.to_string());
    let answers = &endpoint.answer_latency_us;
    let LatencyReport { count, p50, p99, max, .. } = match last {
        Some(last) => answers.since(&last.answer_latency_us),
        None => answers.clone(),
    };
    let latency = if count == 0 { "-".to_owned() } else { format!("{p50}/{p99}/{max}") };
    let packets = match endpoint.kind.as_str() {
        "isochronous" => format!("{:.0}", rate(|of| of.packets)),
        _ => "-".to_owned(),
    };
    let missed = match endpoint.kind.as_str() {
        "isochronous" => (endpoint.missed + endpoint.late).to_string(),
        _ => "-".to_owned(),
    };
    writeln!(
        out,
        "  {:<13} {:>8.0} {:>9} {:>9} {:>7} {:>8} {:>12}  {:>20}",
        title(endpoint),
        rate(|of| of.urbs),
        packets,
        decimal(rate(|of| of.bytes_in + of.bytes_out) / 1e6),
        errors(endpoint),
        missed,
        format!("{low}/{}/{}", endpoint.in_flight, endpoint.in_flight_max),
        latency
    )
}

fn print_ahead(
    endpoint: &EndpointReport,
    ahead: &AheadReport,
    out: &mut dyn Write,
) -> io::Result<()> {
    let ms = |us: u64| decimal(us as f64 / 1e3);
    let (title, limit, level) = (title(endpoint), ms(ahead.limit_us), ms(ahead.level_us));
    match endpoint.address & 0x80 {
        0 => write!(out, "  {title} is played up to {limit} ms late: {level} ms held")?,
        _ => write!(out, "  {title} is read up to {limit} ms ahead: {level} ms at hand")?,
    }
    if let Some(low) = ahead.low_us {
        write!(out, ", the device never had less than {} ms", ms(low))?;
    }
    match ahead.dry {
        0 => writeln!(out),
        dry => writeln!(out, ", ran dry {dry} times"),
    }
}

/// Errors of URBs and packets; what the client has unlinked is its own wish.
fn errors(endpoint: &EndpointReport) -> u64 {
    let errors = endpoint.errors;
    errors.short + errors.stall + errors.other + errors.packets
}

fn title(endpoint: &EndpointReport) -> String {
    let kind = match endpoint.kind.as_str() {
        "isochronous" => "iso",
        "interrupt" => "int",
        other => other,
    };
    match (endpoint.address & 0x0f, endpoint.address & 0x80) {
        (0, _) => kind.to_owned(),
        (number, 0) => format!("{kind} {number} OUT"),
        (number, _) => format!("{kind} {number} IN"),
    }
}

/// What helps a stream whose queue runs dry between the client's answers.
fn hint(endpoint: &EndpointReport) -> Option<String> {
    let ran_dry = match &endpoint.ahead {
        // The client's queue is then not the device's.
        Some(ahead) => ahead.dry > 0,
        None => endpoint.in_flight_low == Some(0),
    };
    let starved = endpoint.kind == "isochronous" && ran_dry && endpoint.missed + endpoint.late > 0;
    let option = match endpoint.address & 0x80 {
        0 => "--iso-jitter",
        _ => "--iso-prefetch",
    };
    let title = title(endpoint);
    starved.then(|| match &endpoint.ahead {
        None => format!(
            "{title} ran dry and missed packets: the client's queue is shorter than the round \
             trip; serve with {option} MS"
        ),
        Some(ahead) => format!(
            "{title} ran dry in spite of {option} {}: take more, if the client's queue is longer \
             than the mean round trip",
            ahead.limit_us / 1000
        ),
    })
}

fn seconds_since(session: &SessionReport, last: Option<&SessionReport>) -> f64 {
    let elapsed = session.uptime_us - last.map_or(0, |last| last.uptime_us.min(session.uptime_us));
    elapsed.max(1) as f64 / 1e6
}

/// Three digits that count.
fn decimal(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// `1:02:03`.
fn duration(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::report::{CoreReport, ErrorReport, ServerReport};

    fn stats(seconds: u64, urbs: u64, missed: u64) -> Stats {
        let latency = LatencyReport {
            count: urbs,
            p50: 90,
            p99: 120,
            p999: 130,
            max: 131,
            buckets: vec![(95, urbs / 2), (127, urbs - urbs / 2)],
        };
        let endpoint = EndpointReport {
            address: 0x82,
            kind: "isochronous".into(),
            urbs,
            packets: urbs * 8,
            bytes_in: urbs * 8192,
            errors: ErrorReport { packets: 3, unlinked: 9, ..ErrorReport::default() },
            missed,
            in_flight: 4,
            in_flight_max: 5,
            in_flight_low: Some(if missed > 0 { 0 } else { 2 }),
            answer_latency_us: latency,
            ..EndpointReport::default()
        };
        let session = SessionReport {
            bus_id: "sim-1".into(),
            vendor_id: "0525".into(),
            product_id: "a4a0".into(),
            name: "Gadget Zero".into(),
            peer: "192.0.2.7:5000".into(),
            uptime_us: seconds * 1_000_000,
            state: "running".into(),
            urbs,
            sent_bytes: urbs * 9000,
            send_blocked_us: seconds * 5000,
            endpoints: vec![endpoint],
            ..SessionReport::default()
        };
        let core =
            CoreReport { sessions: 1, urbs, system_calls: urbs * 2, ..CoreReport::default() };
        let server = ServerReport {
            version: "1.2.3".into(),
            process_id: 7,
            uptime_us: 3_723_000_000,
            listen: vec!["127.0.0.1:3240".into()],
            cores: 1,
            devices: 2,
        };
        let (cores, sessions) = (vec![core], vec![session]);
        Stats { v: 1, reply: "stats".into(), server, cores, sessions }
    }

    fn text(stats: &Stats, last: Option<&Stats>) -> String {
        let mut out = Vec::new();
        print(stats, last, &mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_stream_is_a_line() {
        let expected = "\
server 1.2.3, process 7, at 127.0.0.1:3240, up 1:02:03
  2 devices exported, in use 1 on 1 core
  10000 URBs, 2.00 system calls each, 0.0 MiB of memory for them

sim-1  0525:a4a0 Gadget Zero  for 192.0.2.7:5000, up 0:00:10
  from client 0.00 MB/s, to client 9.00 MB/s, network held up 0.5 %
  device busy 0.0 %, 0 refused, 0 unlinks
  endpoint         URB/s packets/s      MB/s  errors   missed  low/now/max        p50/p99/max µs
  iso 2 IN          1000      8000      8.19       3        0        2/4/5            90/120/131
";
        assert_eq!(text(&stats(10, 10_000, 0), None), expected);
    }

    #[test]
    fn rates_are_those_since_the_last_look() {
        let (before, after) = (stats(10, 10_000, 0), stats(12, 16_000, 0));
        let text = text(&after, Some(&before));
        assert!(text.contains("3000     24000"), "{text}");
        assert!(text.contains("6000 URBs"), "{text}");
    }

    #[test]
    fn a_starved_stream_is_told_its_cure() {
        let mut starved = stats(10, 10_000, 5);
        assert!(text(&starved, None).ends_with("serve with --iso-prefetch MS\n"));
        starved.sessions[0].endpoints[0].address = 0x02;
        assert!(text(&starved, None).ends_with("serve with --iso-jitter MS\n"));
        starved.sessions[0].endpoints[0].in_flight_low = Some(1);
        assert!(!text(&starved, None).contains("serve with"), "it did not run dry");
    }

    #[test]
    fn working_ahead_is_told_with_the_latency_it_adds() {
        let mut stats = stats(10, 10_000, 0);
        let endpoint = &mut stats.sessions[0].endpoints[0];
        let (limit_us, level_us, low_us) = (40_000, 12_500, Some(3000));
        endpoint.ahead = Some(AheadReport { limit_us, level_us, low_us, dry: 0, dry_us: 0 });
        let line = "iso 2 IN is read up to 40.0 ms ahead: 12.5 ms at hand, the device never had \
                    less than 3.00 ms\n";
        assert!(text(&stats, None).ends_with(line), "{}", text(&stats, None));
        let endpoint = &mut stats.sessions[0].endpoints[0];
        endpoint.missed = 7;
        endpoint.in_flight_low = Some(0);
        assert!(!text(&stats, None).contains("take more"), "the device's queue did not run dry");
        let endpoint = &mut stats.sessions[0].endpoints[0];
        endpoint.address = 2;
        endpoint.ahead.as_mut().expect("set above").dry = 2;
        let text = text(&stats, None);
        assert!(text.contains("played up to 40.0 ms late: 12.5 ms held"), "{text}");
        assert!(text.contains("in spite of --iso-jitter 40: take more"), "{text}");
    }

    #[test]
    fn nobody_and_a_core_that_hangs_are_told() {
        let mut none = stats(1, 0, 0);
        none.sessions.clear();
        none.cores.clear();
        let text = text(&none, None);
        assert!(text.contains("core 0 does not answer") && text.ends_with("no device is in use\n"));
    }
}
