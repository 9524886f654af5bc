//! What a server says of itself on request: the bodies of the admin socket's answers, written by
//! the server and read by the command line. `docs/json.md` describes them; a field may be added
//! under the same version, none may change its meaning.

use serde::{Deserialize, Serialize};

use crate::telemetry::histogram::{self, Histogram};

/// Version of the admin protocol and of its answers.
pub const VERSION: u32 = 1;

/// The answer to `stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// [`VERSION`].
    pub v: u32,
    /// `"stats"`.
    pub reply: String,
    /// The server as a whole.
    pub server: ServerReport,
    /// Its cores, by number. One that has not answered in time is missing.
    pub cores: Vec<CoreReport>,
    /// The sessions of all cores, by bus id.
    pub sessions: Vec<SessionReport>,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Of the program.
    pub version: String,
    /// Of the server.
    pub process_id: u32,
    /// Since it started.
    pub uptime_us: u64,
    /// Addresses it listens at.
    pub listen: Vec<String>,
    /// Cores it runs on.
    pub cores: usize,
    /// Devices it exports that are there, those in use included.
    pub devices: usize,
}

/// A core and the sum over its sessions, those that are over included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreReport {
    /// Its number, from 0.
    pub core: usize,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions that are over.
    pub sessions_ended: u64,
    /// CMD_SUBMITs taken.
    pub urbs: u64,
    /// Payload bytes to clients.
    pub bytes_in: u64,
    /// Payload bytes from clients.
    pub bytes_out: u64,
    /// Turns of the reactor.
    pub turns: u64,
    /// System calls of the reactor.
    pub system_calls: u64,
    /// Operations given to the reactor.
    pub operations: u64,
    /// Memory held from the system for URBs and buffers.
    pub arena_bytes: usize,
    /// Blocks of it in use.
    pub arena_blocks: usize,
}

/// A session: one device lent to one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// The device.
    pub bus_id: String,
    /// idVendor, four hexadecimal digits.
    pub vendor_id: String,
    /// idProduct, four hexadecimal digits.
    pub product_id: String,
    /// Product string.
    pub name: String,
    /// Address of the client.
    pub peer: String,
    /// The core that has it.
    pub core: usize,
    /// Since the import.
    pub uptime_us: u64,
    /// `opening`, `running` or `closing`.
    pub state: String,
    /// CMD_SUBMITs taken.
    pub urbs: u64,
    /// Those answered without the device: it is gone, a limit, no such endpoint, a bad request.
    pub refused: u64,
    /// CMD_UNLINKs taken.
    pub unlinks: u64,
    /// Bytes from the client, headers included.
    pub received_bytes: u64,
    /// Bytes to the client, headers included.
    pub sent_bytes: u64,
    /// Time in which answers waited because the network took no more.
    pub send_blocked_us: u64,
    /// Time in which the device was busy with a request that stops all its endpoints.
    pub device_busy_us: u64,
    /// The endpoints that have had URBs, by number and direction; those of the control endpoint
    /// are one.
    pub endpoints: Vec<EndpointReport>,
}

/// An endpoint within a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// bEndpointAddress; 0 for the control endpoint.
    pub address: u8,
    /// `control`, `isochronous`, `bulk` or `interrupt`.
    pub kind: String,
    /// URBs that the device has finished, however they ended.
    pub urbs: u64,
    /// Isochronous packets of those.
    pub packets: u64,
    /// Bytes that the device gave.
    pub bytes_in: u64,
    /// Bytes that the device took.
    pub bytes_out: u64,
    /// How those ended that did not end well.
    pub errors: ErrorReport,
    /// Isochronous packets that came too late for their (micro)frame: those that end with -18
    /// (EXDEV) in a URB that was not stopped.
    pub late: u64,
    /// (Micro)frames of a running isochronous stream for which the device had no packet. A
    /// simulated device counts them; of a real one it is the time in which it had no URB, so a
    /// lower bound.
    pub missed: u64,
    /// Periodic endpoints: how often the device was left without a URB while the stream went on.
    pub dry: u64,
    /// How long it was, in sum.
    pub dry_us: u64,
    /// URBs that the device has now.
    pub in_flight: u64,
    /// Most that it had.
    pub in_flight_max: u64,
    /// Periodic endpoints: fewest that it was left with by a URB's end while the stream went on;
    /// `null` before the first.
    pub in_flight_low: Option<u64>,
    /// What working ahead of the client has come to; `null` where nothing is done ahead. Then the
    /// URBs of this endpoint are those of the client, and a URB's end at the device is when it was
    /// answered from what was read ahead, or accepted to be played.
    #[serde(default)]
    pub ahead: Option<AheadReport>,
    /// From a URB's arrival to its end at the device.
    pub device_latency_us: LatencyReport,
    /// From a URB's arrival until the network has taken its answer.
    pub answer_latency_us: LatencyReport,
}

/// Working ahead of the client on one endpoint (`--iso-prefetch`, `--iso-jitter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadReport {
    /// The latency added at most: the time that was chosen.
    pub limit_us: u64,
    /// The latency added now: IN what was read and not asked for, OUT what was taken from the
    /// client and has not left.
    pub level_us: u64,
    /// What the device's own queue held at the least while the stream went on.
    pub low_us: Option<u64>,
    /// How often the device had nothing to do while the stream went on.
    pub dry: u64,
    /// How long it had nothing to do, in sum.
    pub dry_us: u64,
}

/// URBs, and isochronous packets, by the way they failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Ended short where the client forbids it (-121).
    pub short: u64,
    /// Stalled (-32).
    pub stall: u64,
    /// Ended by the client's CMD_UNLINK, or with their alternate setting (-2, -104, -108).
    pub unlinked: u64,
    /// Every other status that is not 0.
    pub other: u64,
    /// Isochronous packets with a status that is not 0.
    pub packets: u64,
}

/// Latencies, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// URBs.
    pub count: u64,
    /// Half of them took this or less; good to an eighth, as all percentiles.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// The longest, exact.
    pub max: u64,
    /// Upper end of each bucket that is not empty, and how many fell into it.
    pub buckets: Vec<(u64, u64)>,
}

impl From<&Histogram> for LatencyReport {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            p50: histogram.percentile_us(0.5),
            p99: histogram.percentile_us(0.99),
            p999: histogram.percentile_us(0.999),
            max: histogram.max_us(),
            buckets: histogram.filled().collect(),
        }
    }
}

impl LatencyReport {
    /// What came since an earlier report of the same endpoint. Its maximum is the upper end of a
    /// bucket, because which URB took longest is known of the whole time only.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let old = |upper| {
            let found = earlier.buckets.iter().find(|(other, _)| *other == upper);
            found.map_or(0, |(_, count)| *count)
        };
        let fresh =
            self.buckets.iter().map(|&(upper, count)| (upper, count - old(upper).min(count)));
        let buckets: Vec<_> = fresh.filter(|(_, count)| *count > 0).collect();
        let percentile =
            |fraction| histogram::percentile_us(buckets.iter().copied(), fraction).min(self.max);
        Self {
            count: self.count.saturating_sub(earlier.count),
            p50: percentile(0.5),
            p99: percentile(0.99),
            p999: percentile(0.999),
            max: percentile(1.0),
            buckets,
        }
    }
}
