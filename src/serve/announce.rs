//! What the listeners of the control channel are told of the exports, each what it may see.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::control::Announcement;
use crate::control::announce::Change;
use crate::control::message::{Backend, DeviceInfo, DeviceState, InterfaceInfo};
use crate::ledger::{Publication, Published, State};
use crate::limits;
use crate::network::canonical;

/// The exports as the listeners see them: states and devices, not who has them. As long as every
/// client may have every device there is one view of them, whose frames are written once; else
/// there is one for each address.
#[derive(Default)]
pub struct Views {
    /// What there is, by bus id.
    told: BTreeMap<String, Arc<Published>>,
    /// Counts states that differ for listeners.
    sequence: u64,
    /// What the last of them has changed.
    news: Vec<News>,
    is_restricted: bool,
    views: BTreeMap<Option<IpAddr>, Rc<Announcement>>,
}

/// A device before and after a change.
struct News {
    before: Option<Arc<Published>>,
    after: Option<Arc<Published>>,
}

impl Views {
    /// Takes what has changed in the ledger. Whether that is a new state for listeners, to be told
    /// by [`view`](Self::view); changes that come together make one.
    pub fn follow(&mut self, publications: impl Iterator<Item = Arc<Publication>>) -> bool {
        let mut now: BTreeMap<String, Option<Arc<Published>>> = BTreeMap::new();
        for publication in publications {
            for published in publication.added.iter().chain(&publication.updated) {
                let bus_id = published.listed.description.bus_id.clone();
                now.insert(bus_id, Some(Arc::clone(published)));
            }
            now.extend(publication.removed.iter().map(|bus_id| (bus_id.clone(), None)));
        }
        let mut news = Vec::new();
        for (bus_id, after) in now {
            let before = match &after {
                Some(after) => self.told.insert(bus_id, Arc::clone(after)),
                None => self.told.remove(&bus_id),
            };
            if !is_same(before.as_deref(), after.as_deref()) {
                news.push(News { before, after });
            }
        }
        if news.is_empty() {
            return false;
        }
        let before = news.iter().filter_map(|news| news.before.as_ref());
        self.is_restricted = self.told.values().chain(before).any(is_restricted);
        self.sequence += 1;
        self.news = news;
        self.views.clear();
        true
    }

    /// Counts states that differ for listeners.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Everything as this listener sees it, and how it differs from the state before.
    pub fn view(&mut self, peer: SocketAddr) -> Rc<Announcement> {
        if self.views.len() > limits::CONTROL_CONNECTIONS {
            self.views.clear();
        }
        // Peers of one address see the same.
        let name = self.is_restricted.then(|| canonical(peer.ip()));
        let Self { told, sequence, news, views, .. } = self;
        let view = views.entry(name).or_insert_with(|| {
            let visible = told.values().filter(|published| published.listed.is_for(peer));
            let devices = visible.map(|published| device_info(published)).collect();
            Rc::new(Announcement::new(*sequence, devices, Some(change(news, peer))))
        });
        Rc::clone(view)
    }
}

fn is_restricted(published: &Arc<Published>) -> bool {
    !published.listed.networks.is_empty()
}

/// Whether a listener could not tell one from the other.
fn is_same(before: Option<&Published>, after: Option<&Published>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            (before.state, &before.reason) == (after.state, &after.reason)
                && (Arc::ptr_eq(&before.listed, &after.listed) || before.listed == after.listed)
        }
        (None, None) => true,
        _ => false,
    }
}

/// What differs for this peer, in the order of bus ids. A device that it may see from now on is new
/// to it, one that it may no longer see is gone.
fn change(news: &[News], peer: SocketAddr) -> Change {
    let mut change = Change::default();
    for News { before, after } in news {
        let seen = |it: &&Arc<Published>| it.listed.is_for(peer);
        match (before.as_ref().filter(seen), after.as_ref().filter(seen)) {
            (Some(_), Some(after)) => change.updated.push(device_info(after)),
            (None, Some(after)) => change.added.push(device_info(after)),
            (Some(before), None) => change.removed.push(before.listed.description.bus_id.clone()),
            (None, None) => {}
        }
    }
    change
}

/// A device as the control channel has it (control-channel.md §3.1, §3.2). The status is that of
/// Linux's usbip-host, whose numbers and words clients know.
#[must_use]
pub fn device_info(published: &Published) -> DeviceInfo {
    let Published { listed, state, reason, holder: _ } = published;
    let device = &listed.description;
    let interfaces = device.interfaces.iter().map(|class| InterfaceInfo {
        class: class.class,
        subclass: class.subclass,
        protocol: class.protocol,
    });
    let (state, status_code, status_reason) = match state {
        State::Available => (DeviceState::Available, 1, "available".to_owned()),
        State::Busy => (DeviceState::Busy, 2, "used".to_owned()),
        State::Unavailable => {
            let why = reason.as_ref().map_or_else(|| "error".to_owned(), ToString::to_string);
            (DeviceState::Unavailable, 3, why)
        }
    };
    DeviceInfo {
        busid: device.bus_id.clone(),
        stable_id: listed.stable_id(),
        backend: if listed.is_simulated { Backend::Dynamic } else { Backend::LinuxSysfs },
        path: device.path.clone(),
        serial: device.serial.clone(),
        product: device.product_name.clone(),
        vendor_id: device.vendor,
        product_id: device.product,
        bcd_device: device.release,
        busnum: device.bus_number,
        devnum: device.device_number,
        speed: device.speed.code(),
        device_class: device.class.class,
        device_subclass: device.class.subclass,
        device_protocol: device.class.protocol,
        configuration_value: device.configuration,
        num_configurations: device.configurations,
        num_interfaces: u8::try_from(device.interfaces.len()).unwrap_or(u8::MAX),
        interfaces: interfaces.collect(),
        state,
        status_code,
        status_reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Dialect;
    use crate::ledger::{Holder, Ledger, Listed, Listener, UnavailableReason};
    use crate::usb::identity::{Class, DeviceDescription};
    use crate::usb::speed::Speed;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7))
    }

    /// The gadget of control-channel.md §3.7.
    fn gadget() -> Listed {
        Listed::real(DeviceDescription {
            path: "/sys/bus/usb/devices/1-1".into(),
            bus_id: "1-1".into(),
            location: String::new(),
            bus_number: 1,
            device_number: 2,
            speed: Speed::High,
            vendor: 1317,
            product: 42144,
            release: 1537,
            class: Class::default(),
            configuration: 0,
            configurations: 2,
            interfaces: Vec::new(),
            manufacturer_name: String::new(),
            product_name: "SourceSink".into(),
            serial: "0123456789".into(),
            descriptors: Vec::new(),
        })
    }

    fn named(bus_id: &str, networks: &[&str]) -> Arc<Listed> {
        let mut listed = gadget();
        listed.description.bus_id = bus_id.into();
        listed.networks = networks.iter().map(|text| text.parse().expect("a range")).collect();
        Arc::new(listed)
    }

    /// Takes what has changed; what these are told then.
    fn tell(views: &mut Views, ledger: &mut Ledger, peers: &[SocketAddr]) -> Vec<Rc<Announcement>> {
        assert!(views.follow(std::iter::from_fn(|| ledger.poll_publication())), "it is news");
        peers.iter().map(|&it| views.view(it)).collect()
    }

    fn delta(announcement: &Announcement) -> String {
        let frame = announcement.delta();
        String::from_utf8(frame[16..].to_vec()).expect("JSON")
    }

    #[test]
    fn a_gadget_is_told_of_as_the_reference_does() {
        let (mut ledger, mut views) = (Ledger::default(), Views::default());
        ledger.plug(Arc::new(gadget()));
        tell(&mut views, &mut ledger, &[]);
        let frame = views.view(peer(1)).snapshot(Dialect::Plain).expect("small");
        let json: serde_json::Value = serde_json::from_slice(&frame[4..]).expect("JSON");
        let golden = r#"{"devices":[{"busid":"1-1","stable_id":"usb:0525:a4a0:0123456789",
            "backend":1,"path":"/sys/bus/usb/devices/1-1","serial":"0123456789",
            "product":"SourceSink","vendor_id":1317,"product_id":42144,"bcd_device":1537,
            "busnum":1,"devnum":2,"speed":3,"device_class":0,"device_subclass":0,
            "device_protocol":0,"configuration_value":0,"num_configurations":2,
            "num_interfaces":0,"state":0,"status_code":1,"status_reason":"available"}]}"#;
        let golden: serde_json::Value = serde_json::from_str(golden).expect("JSON");
        assert_eq!(json, golden);
    }

    #[test]
    fn states_have_the_words_of_the_reference() {
        let published =
            |state, reason| Published { listed: Arc::new(gadget()), state, reason, holder: None };
        let used = device_info(&published(State::Busy, None));
        assert_eq!((used.status_code, &used.status_reason[..]), (2, "used"));
        let replaced = published(State::Unavailable, Some(UnavailableReason::Replaced));
        let replaced = device_info(&replaced);
        assert_eq!(replaced.state, DeviceState::Unavailable);
        assert_eq!((replaced.status_code, &replaced.status_reason[..]), (3, "device replaced"));
    }

    #[test]
    fn all_share_one_view_as_long_as_all_may_see_all() {
        let (mut ledger, mut views) = (Ledger::default(), Views::default());
        ledger.plug(named("1-1", &[]));
        let said = tell(&mut views, &mut ledger, &[peer(1), peer(2)]);
        assert!(Rc::ptr_eq(&said[0], &said[1]));
        assert!(Rc::ptr_eq(&said[0], &views.view(peer(3))));
    }

    #[test]
    fn what_no_listener_can_see_is_no_new_state() {
        let (mut ledger, mut views) = (Ledger::default(), Views::default());
        ledger.plug(named("1-1", &[]));
        tell(&mut views, &mut ledger, &[]);
        let now = std::time::Duration::from_secs(7);
        let lease = ledger.issue_lease(Listener(1), peer(1), "1-1", 5, now).expect("free");
        tell(&mut views, &mut ledger, &[]);
        assert_eq!(views.sequence(), 2);
        // Held by another connection, but busy as before.
        let holder = Holder { peer: peer(2), since: now };
        ledger.consume_lease("1-1", lease.id, 5, holder).expect("its lease");
        let mut publications = 0;
        let counted = std::iter::from_fn(|| ledger.poll_publication());
        assert!(!views.follow(counted.inspect(|_| publications += 1)));
        assert_eq!((publications, views.sequence()), (1, 2));
        // Free and taken again at once.
        ledger.release("1-1");
        ledger.reserve("1-1", holder).expect("free");
        assert!(!views.follow(std::iter::from_fn(|| ledger.poll_publication())));
        ledger.release("1-1");
        let said = tell(&mut views, &mut ledger, &[peer(1)]);
        assert_eq!(said[0].sequence(), 3);
    }

    #[test]
    fn a_device_for_others_is_never_named() {
        let (mut ledger, mut views) = (Ledger::default(), Views::default());
        let (mine, other) = (peer(1), peer(2));
        ledger.plug(named("1-1", &["192.0.2.1"]));
        let said = tell(&mut views, &mut ledger, &[mine, other]);
        assert!(delta(&said[0]).contains("\"added\":[{"), "{}", delta(&said[0]));
        assert_eq!(delta(&said[1]), "{\"sequence\":1}");
        let seen = views.view(other).snapshot(Dialect::Plain).expect("small");
        assert_eq!(&seen[4..], br#"{"devices":[]}"#);
        // A rule is changed: what one may see from now on is new to it, and gone for the other.
        ledger.unplug("1-1");
        let said = tell(&mut views, &mut ledger, &[mine, other]);
        assert_eq!(delta(&said[0]), "{\"removed\":[\"1-1\"],\"sequence\":2}");
        assert_eq!(delta(&said[1]), "{\"sequence\":2}");
        ledger.plug(named("1-1", &["192.0.2.1"]));
        tell(&mut views, &mut ledger, &[]);
        ledger.plug(named("1-1", &["192.0.2.2"]));
        let said = tell(&mut views, &mut ledger, &[mine, other]);
        assert!(delta(&said[0]).contains("\"removed\":[\"1-1\"]"), "{}", delta(&said[0]));
        assert!(delta(&said[1]).contains("\"added\":[{"), "{}", delta(&said[1]));
    }
}
