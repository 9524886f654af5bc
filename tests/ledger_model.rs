//! The export ledger against a simple model: random operations, and after each one the published
//! state and the sequence number must be what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use usbip_fast::ledger::policy::Backend;
use usbip_fast::ledger::{
    Holder, LEASE_TTL, Lease, Ledger, Listed, Listener, State, UnavailableReason,
};
use usbip_fast::usb::identity::{Class, DeviceDescription};
use usbip_fast::usb::speed::Speed;

/// Runs times operations: 100,000 steps.
const RUNS: u32 = 100;
const STEPS: usize = 1000;

const PLACES: u8 = 4;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Plug {
        place: u8,
        number: u8,
    },
    Unplug {
        place: u8,
    },
    Trouble {
        place: u8,
        is_in: bool,
    },
    Reserve {
        place: u8,
        client: u8,
    },
    Release {
        place: u8,
    },
    Issue {
        place: u8,
        client: u8,
        nonce: u8,
    },
    /// Shows the last lease given out for the place, or one that does not fit.
    Consume {
        place: u8,
        is_right: bool,
    },
    Leave {
        client: u8,
    },
    Expire,
    Wait {
        tenths: u8,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = 0..PLACES;
    prop_oneof![
        (place.clone(), 0..3_u8).prop_map(|(place, number)| Operation::Plug { place, number }),
        place.clone().prop_map(|place| Operation::Unplug { place }),
        (place.clone(), any::<bool>())
            .prop_map(|(place, is_in)| Operation::Trouble { place, is_in }),
        (place.clone(), 0..3_u8).prop_map(|(place, client)| Operation::Reserve { place, client }),
        place.clone().prop_map(|place| Operation::Release { place }),
        (place.clone(), 0..3_u8, 0..2_u8).prop_map(|(place, client, nonce)| Operation::Issue {
            place,
            client,
            nonce
        }),
        (place, any::<bool>()).prop_map(|(place, is_right)| Operation::Consume { place, is_right }),
        (0..3_u8).prop_map(|client| Operation::Leave { client }),
        Just(Operation::Expire),
        (1..60_u8).prop_map(|tenths| Operation::Wait { tenths }),
    ]
}

/// What is known of one place, in the plainest form.
#[derive(Clone, Debug)]
struct Place {
    number: u8,
    /// Unplugged (`Some(None)`) or replaced while reserved.
    after: Option<Option<u8>>,
    holder: Option<u8>,
    /// Client, and when it runs out.
    lease: Option<(u8, Duration)>,
    in_trouble: bool,
}

impl Place {
    fn new(number: u8) -> Self {
        Self { number, after: None, holder: None, lease: None, in_trouble: false }
    }

    fn is_free(&self) -> bool {
        self.holder.is_none() && self.lease.is_none()
    }

    fn can_be_had(&self) -> bool {
        self.is_free() && self.after.is_none() && !self.in_trouble
    }
}

/// Device number, state, reason, who has it.
type Said = BTreeMap<u8, (u8, State, Option<UnavailableReason>, Option<SocketAddr>)>;

#[derive(Default)]
struct Model {
    places: BTreeMap<u8, Place>,
    said: Said,
    sequence: u64,
}

impl Model {
    fn step(&mut self, operation: Operation, now: Duration) -> bool {
        let asks_the_time = matches!(
            operation,
            Operation::Reserve { .. }
                | Operation::Issue { .. }
                | Operation::Consume { .. }
                | Operation::Expire
        );
        if asks_the_time {
            self.end_leases(|_, expiry| expiry <= now);
        }
        let succeeds = self.act(operation, now);
        self.say();
        succeeds
    }

    fn act(&mut self, operation: Operation, now: Duration) -> bool {
        match operation {
            Operation::Plug { place, number } => self.plug(place, number),
            Operation::Unplug { place } => match self.places.get_mut(&place) {
                Some(found) if !found.is_free() => found.after = Some(None),
                _ => drop(self.places.remove(&place)),
            },
            Operation::Trouble { place, is_in } => {
                if let Some(place) = self.places.get_mut(&place) {
                    place.in_trouble = is_in;
                }
            }
            Operation::Reserve { place, client } => match self.places.get_mut(&place) {
                Some(place) if place.can_be_had() => place.holder = Some(client),
                _ => return false,
            },
            Operation::Release { place } => {
                self.places.get_mut(&place).expect("held").holder = None;
                self.settle(place);
            }
            Operation::Issue { place, client, .. } => match self.places.get_mut(&place) {
                Some(place) if place.can_be_had() => place.lease = Some((client, now + LEASE_TTL)),
                _ => return false,
            },
            Operation::Consume { place, is_right } => return self.consume(place, is_right),
            Operation::Leave { client } => self.end_leases(|whose, _| whose == client),
            Operation::Expire | Operation::Wait { .. } => {}
        }
        true
    }

    fn plug(&mut self, place: u8, number: u8) {
        match self.places.get_mut(&place) {
            Some(found) if found.number == number => found.after = None,
            Some(found) if !found.is_free() => found.after = Some(Some(number)),
            _ => drop(self.places.insert(place, Place::new(number))),
        }
    }

    fn consume(&mut self, place: u8, is_right: bool) -> bool {
        let Some(found) = self.places.get_mut(&place) else { return false };
        let Some((client, _)) = found.lease else { return false };
        if !is_right {
            return false;
        }
        found.lease = None;
        let succeeds = found.can_be_had();
        if succeeds {
            found.holder = Some(client);
        }
        self.settle(place);
        succeeds
    }

    fn end_leases(&mut self, wanted: impl Fn(u8, Duration) -> bool) {
        let places: Vec<u8> = self.places.keys().copied().collect();
        let mut any = false;
        for at in places {
            let place = self.places.get_mut(&at).expect("just listed");
            if place.lease.is_some_and(|(client, expiry)| wanted(client, expiry)) {
                place.lease = None;
                any = true;
                self.settle(at);
            }
        }
        if any {
            self.say();
        }
    }

    fn settle(&mut self, at: u8) {
        let place = self.places.get_mut(&at).expect("settled places are there");
        if place.is_free() {
            match place.after.take() {
                None => {}
                Some(None) => drop(self.places.remove(&at)),
                Some(Some(number)) => *place = Place::new(number),
            }
        }
    }

    fn say(&mut self) {
        let now: Said = self.places.iter().map(|(&at, place)| (at, describe(place))).collect();
        if now != self.said {
            self.said = now;
            self.sequence += 1;
        }
    }
}

fn describe(place: &Place) -> (u8, State, Option<UnavailableReason>, Option<SocketAddr>) {
    let holder = place.holder.or(place.lease.map(|(client, _)| client)).map(peer);
    let trouble = UnavailableReason::Device("trouble".into());
    let (state, reason) = match (place.after, place.is_free(), place.in_trouble) {
        (Some(None), ..) => (State::Unavailable, Some(UnavailableReason::Removed)),
        (Some(Some(_)), ..) => (State::Unavailable, Some(UnavailableReason::Replaced)),
        (None, false, _) => (State::Busy, None),
        (None, true, true) => (State::Unavailable, Some(trouble)),
        (None, true, false) => (State::Available, None),
    };
    (place.number, state, reason, holder)
}

fn peer(client: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, client], 1000))
}

fn name(place: u8) -> String {
    format!("1-{place}")
}

fn device(place: u8, number: u8) -> Arc<Listed> {
    Arc::new(Listed {
        description: DeviceDescription {
            path: String::new(),
            bus_id: name(place),
            location: String::new(),
            bus_number: 1,
            device_number: number.into(),
            speed: Speed::High,
            vendor: 1,
            product: 2,
            release: 3,
            class: Class::default(),
            configuration: 1,
            configurations: 1,
            interfaces: Vec::new(),
            manufacturer_name: String::new(),
            product_name: String::new(),
            serial: String::new(),
            descriptors: Vec::new(),
        },
        networks: Vec::new(),
        backend: Backend::Usbfs,
        is_simulated: false,
    })
}

/// The ledger, and the leases it gave out.
#[derive(Default)]
struct Subject {
    ledger: Ledger,
    leases: BTreeMap<u8, Lease>,
}

impl Subject {
    fn step(&mut self, operation: Operation, now: Duration) -> bool {
        let ledger = &mut self.ledger;
        match operation {
            Operation::Plug { place, number } => drop(ledger.plug(device(place, number))),
            Operation::Unplug { place } => drop(ledger.unplug(&name(place))),
            Operation::Trouble { place, is_in } => {
                let trouble = is_in.then(|| UnavailableReason::Device("trouble".into()));
                ledger.mark(&name(place), trouble);
            }
            Operation::Reserve { place, client } => {
                let holder = Holder { peer: peer(client), since: now };
                return ledger.reserve(&name(place), holder).is_ok();
            }
            Operation::Release { place } => drop(ledger.release(&name(place))),
            Operation::Issue { place, client, nonce } => {
                let listener = Listener(client.into());
                let (name, nonce) = (name(place), nonce.into());
                let lease = ledger.issue_lease(listener, peer(client), &name, nonce, now);
                return lease.is_ok_and(|lease| {
                    self.leases.insert(place, lease);
                    true
                });
            }
            Operation::Consume { place, is_right } => {
                let lease = self.leases.get(&place);
                let (id, nonce) = lease.map_or((0, 0), |lease| (lease.id, lease.nonce));
                let peer = lease.map_or(peer(0), |lease| lease.holder);
                let nonce = nonce + u64::from(!is_right);
                let holder = Holder { peer, since: now };
                return ledger.consume_lease(&name(place), id, nonce, holder).is_ok();
            }
            Operation::Leave { client } => ledger.drop_listener(Listener(client.into())),
            Operation::Expire => ledger.expire(now),
            Operation::Wait { .. } => {}
        }
        true
    }

    fn said(&self) -> Said {
        let entry = |it: &Arc<usbip_fast::ledger::Published>| {
            let device = &it.listed.description;
            let place = device.bus_id.as_bytes()[2] - b'0';
            let number = u8::try_from(device.device_number).expect("numbers of the model");
            (place, (number, it.state, it.reason.clone(), it.holder))
        };
        self.ledger.published().map(entry).collect()
    }
}

/// A listener that knows only what was published.
#[derive(Default)]
struct Audience {
    listed: BTreeMap<String, Arc<usbip_fast::ledger::Published>>,
    sequence: u64,
}

impl Audience {
    fn listen(&mut self, ledger: &mut Ledger) {
        while let Some(publication) = ledger.poll_publication() {
            self.sequence += 1;
            assert_eq!(publication.sequence, self.sequence, "no publication is left out");
            for bus_id in &publication.removed {
                assert!(self.listed.remove(bus_id).is_some(), "{bus_id} was listed");
            }
            for each in &publication.added {
                let bus_id = each.listed.description.bus_id.clone();
                assert!(self.listed.insert(bus_id, Arc::clone(each)).is_none(), "it is new");
            }
            for each in &publication.updated {
                let bus_id = each.listed.description.bus_id.clone();
                let before = self.listed.insert(bus_id, Arc::clone(each));
                assert_ne!(before.as_ref(), Some(each), "an update says something new");
                assert!(before.is_some(), "only what was listed is updated");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: RUNS, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_agrees_with_the_model(operations in vec(operation(), STEPS)) {
        let (mut subject, mut model) = (Subject::default(), Model::default());
        let mut audience = Audience::default();
        let mut now = Duration::ZERO;
        for operation in operations {
            if let Operation::Wait { tenths } = operation {
                now += Duration::from_millis(100) * tenths.into();
            }
            if let Operation::Release { place } = operation
                && model.places.get(&place).is_none_or(|place| place.holder.is_none())
            {
                continue;
            }
            prop_assert_eq!(
                subject.step(operation, now), model.step(operation, now), "{:?}", operation
            );
            prop_assert_eq!(&subject.said(), &model.said, "{:?}", operation);
            prop_assert_eq!(subject.ledger.sequence(), model.sequence, "{:?}", operation);
            audience.listen(&mut subject.ledger);
            let heard: BTreeSet<_> = audience.listed.values().map(Arc::as_ptr).collect();
            let listed: BTreeSet<_> = subject.ledger.published().map(Arc::as_ptr).collect();
            prop_assert_eq!(heard, listed, "who listens knows what is listed: {:?}", operation);
        }
    }
}
