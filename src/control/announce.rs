//! States of a server's devices as frames, each written once for all who get it.

use std::cell::OnceCell;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Dialect;
use super::frame::{self, Kind};
use super::message::{DROPPED_KEYS, DeviceInfo, device_json};

/// A frame, shared by all connections that send it.
pub type Frame = Arc<[u8]>;

/// The state of all devices as of one sequence number, and what differs from the one before.
/// Frames are written when the first connection wants them.
#[derive(Debug)]
pub struct Announcement {
    sequence: u64,
    devices: Vec<DeviceInfo>,
    change: Option<Change>,
    snapshots: [OnceCell<Option<Frame>>; 3],
    delta: OnceCell<Frame>,
}

/// What differs from the state before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New devices, by bus id.
    pub added: Vec<DeviceInfo>,
    /// Devices in another state, by bus id.
    pub updated: Vec<DeviceInfo>,
    /// Bus ids of devices that are gone.
    pub removed: Vec<String>,
}

impl Announcement {
    /// All devices, in the order of bus ids, as of `sequence`.
    #[must_use]
    pub fn new(sequence: u64, devices: Vec<DeviceInfo>, change: Option<Change>) -> Self {
        let snapshots = [const { OnceCell::new() }; 3];
        Self { sequence, devices, change, snapshots, delta: OnceCell::new() }
    }

    /// Counts states.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The complete state. `None`: it does not fit into a frame, whatever is left out. For
    /// [`Dialect::Lease`] there is always one: CHANGED instead, and the client asks for the list.
    pub fn snapshot(&self, dialect: Dialect) -> Option<Frame> {
        let cell = match dialect {
            Dialect::Lease => &self.snapshots[0],
            Dialect::Plain => &self.snapshots[1],
            Dialect::PlainText => &self.snapshots[2],
        };
        cell.get_or_init(|| self.write_snapshot(dialect)).clone()
    }

    /// What differs from the state before; CHANGED where that does not fit or is not known.
    pub fn delta(&self) -> Frame {
        let write = || match &self.change {
            Some(change) => self.write_delta(change).unwrap_or_else(|| self.changed()),
            None => self.changed(),
        };
        Arc::clone(self.delta.get_or_init(write))
    }

    /// That something has changed, and no more.
    #[must_use]
    pub fn changed(&self) -> Frame {
        let frame = frame::encode(Dialect::Lease, Kind::Changed, 0, self.sequence, &[]);
        frame.expect("without a payload").into()
    }

    fn write_snapshot(&self, dialect: Dialect) -> Option<Frame> {
        if dialect == Dialect::Lease {
            let payload =
                json!({"sequence": self.sequence, "devices": list(&self.devices, dialect, 0)});
            let frame = write(dialect, Kind::Snapshot, self.sequence, &payload);
            return Some(frame.unwrap_or_else(|| self.changed()));
        }
        (0..=DROPPED_KEYS.len()).find_map(|dropped| {
            let payload = json!({"devices": list(&self.devices, dialect, dropped)});
            write(dialect, Kind::Snapshot, 0, &payload)
        })
    }

    fn write_delta(&self, change: &Change) -> Option<Frame> {
        let mut payload = json!({"sequence": self.sequence});
        for (key, devices) in [("added", &change.added), ("updated", &change.updated)] {
            if !devices.is_empty() {
                payload[key] = list(devices, Dialect::Lease, 0);
            }
        }
        if !change.removed.is_empty() {
            payload["removed"] = json!(change.removed);
        }
        write(Dialect::Lease, Kind::Delta, self.sequence, &payload)
    }
}

fn list(devices: &[DeviceInfo], dialect: Dialect, dropped: usize) -> Value {
    devices.iter().map(|device| device_json(device, dialect, dropped)).collect()
}

/// `None`: it does not fit.
fn write(dialect: Dialect, kind: Kind, sequence: u64, payload: &Value) -> Option<Frame> {
    let payload = serde_json::to_vec(payload).expect("what was made of texts can be written");
    frame::encode(dialect, kind, 0, sequence, &payload).ok().map(Frame::from)
}

#[cfg(test)]
mod tests {
    use super::super::message::{Delta, Snapshot, tests::gadget};
    use super::*;

    fn many(count: usize) -> Vec<DeviceInfo> {
        let device = |n| DeviceInfo { busid: format!("1-{n:03}"), ..gadget() };
        (0..count).map(device).collect()
    }

    fn payload(frame: &Frame, dialect: Dialect) -> (Kind, &[u8]) {
        let header = frame::Header::parse(frame, dialect).expect("a header");
        let payload = &frame[dialect.header_bytes()..];
        assert_eq!(payload.len(), usize::from(header.payload_bytes));
        (header.kind.expect("a known frame"), payload)
    }

    #[test]
    fn snapshots_and_deltas_say_what_they_were_given() {
        let change = Change { updated: many(1), ..Change::default() };
        let announcement = Announcement::new(4, many(2), Some(change));
        for dialect in [Dialect::Lease, Dialect::Plain, Dialect::PlainText] {
            let frame = announcement.snapshot(dialect).expect("small");
            let (kind, payload) = payload(&frame, dialect);
            let snapshot: Snapshot = serde_json::from_slice(payload).expect("a snapshot");
            assert_eq!(kind, Kind::Snapshot);
            assert_eq!(snapshot.devices.len(), 2);
            assert_eq!(snapshot.sequence, if dialect == Dialect::Lease { 4 } else { 0 });
        }
        let frame = announcement.delta();
        let (kind, payload) = payload(&frame, Dialect::Lease);
        let delta: Delta = serde_json::from_slice(payload).expect("a delta");
        assert_eq!((kind, delta.sequence, delta.updated.len()), (Kind::Delta, 4, 1));
        let json: Value = serde_json::from_slice(payload).expect("JSON");
        assert!(json.get("added").is_none() && json.get("removed").is_none());
    }

    #[test]
    fn an_empty_state_is_an_empty_list() {
        let frame = Announcement::new(0, Vec::new(), None).snapshot(Dialect::Plain).expect("small");
        assert_eq!(&frame[4..], br#"{"devices":[]}"#);
    }

    #[test]
    fn w11_what_does_not_fit_is_said_in_fewer_words() {
        let plain = |count| {
            let frame = Announcement::new(1, many(count), None).snapshot(Dialect::Plain)?;
            let json: Value = serde_json::from_slice(&frame[4..]).expect("JSON");
            let first = json["devices"][0].clone();
            let has = |key: &&&str| first.get(key).is_some();
            let keys = DROPPED_KEYS.iter().filter(has).count();
            Some((json["devices"].as_array().map(Vec::len), keys))
        };
        // The gadget has no interfaces.
        assert_eq!(plain(100), Some((Some(100), 5)));
        assert_eq!(
            plain(200),
            Some((Some(200), 2)),
            "status_reason, path and stable_id are left out"
        );
        assert_eq!(plain(500), None);
    }

    #[test]
    fn w11_an_oversized_state_becomes_word_of_a_change() {
        let change = Change { added: many(500), ..Change::default() };
        let announcement = Announcement::new(6, many(500), Some(change));
        let snapshot = announcement.snapshot(Dialect::Lease).expect("always");
        assert_eq!(&snapshot[..], &announcement.changed()[..]);
        assert_eq!(&announcement.delta()[..], &announcement.changed()[..]);
    }
}
