//! Several devices of one server under load at once, each with a thread and a connection.

use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use usbip_fast_native::affinity;

use super::load::{Load, WireBytes};
use super::sample::Sample;
use super::{BenchArgs, connect};
use crate::error::Error;

/// What all streams together have done.
pub(super) struct Streams {
    pub(super) sample: Sample,
    pub(super) description: String,
    pub(super) wire: WireBytes,
}

/// Runs one load on each of the devices, all at the same time.
pub(super) fn run(args: &BenchArgs, total: Duration) -> Result<Streams, Error> {
    let start = Arc::new(Barrier::new(args.streams as usize));
    let mut threads: Vec<JoinHandle<Result<Streams, Error>>> = Vec::new();
    for number in 0..args.streams {
        let bus_id = bus_id_of(&args.bus_id, number)?;
        let (args, start) = (args.clone(), Arc::clone(&start));
        let body = move || {
            if args.pin {
                // The main thread has told where this is not possible.
                let _ = affinity::pin(affinity::cores() - 1);
            }
            // A client belongs to its thread. Who is refused still comes to the barrier, where the
            // others wait.
            let load = connect(&args, &bus_id).and_then(|client| Load::new(client, &args));
            start.wait();
            let mut load = load?;
            let warm = load.run(total / 20, &mut |_| {})?;
            let sample = load.run(total, &mut |_| {})?;
            let description = load.description().to_owned();
            Ok(Streams { sample, description, wire: load.wire(&warm) })
        };
        let thread = affinity::spawn("bench-stream", body);
        threads.push(thread.map_err(|error| Error::Failed(format!("no more streams: {error}")))?);
    }
    let mut streams = Vec::new();
    for thread in threads {
        streams.push(thread.join().map_err(|_| Error::Failed("a stream has failed".into()))??);
    }
    let sample = Sample::together(streams.iter().map(|stream| &stream.sample));
    let first = streams.swap_remove(0);
    Ok(Streams {
        sample,
        description: format!("{} × {}", args.streams, first.description),
        ..first
    })
}

/// The device `number` places behind the one that is named: `sim-1`, `sim-2` and so on.
fn bus_id_of(first: &str, number: u32) -> Result<String, Error> {
    let stem = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let counted = first[stem.len()..].parse::<u32>().ok().and_then(|of| of.checked_add(number));
    match counted {
        Some(counted) => Ok(format!("{stem}{counted}")),
        None if number == 0 => Ok(first.to_owned()),
        None => Err(Error::Usage(format!(
            "--streams counts up from a bus id that ends in a number, not {first}; type: -b sim-1"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_up_from_the_first() {
        let bus_id = |first, number| bus_id_of(first, number).ok();
        assert_eq!(bus_id("sim-1", 0).as_deref(), Some("sim-1"));
        assert_eq!(bus_id("sim-9", 3).as_deref(), Some("sim-12"));
        assert_eq!(bus_id("1-1.4", 1).as_deref(), Some("1-1.5"));
        assert_eq!(bus_id("device", 0).as_deref(), Some("device"));
        assert_eq!(bus_id("device", 1), None);
        assert_eq!(bus_id("sim-4294967295", 1), None);
    }
}
