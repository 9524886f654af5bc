//! What the listeners of the control channel are told of the exports, each what it may see.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::control::Announcement;
use crate::control::announce::Change;
use crate::control::message::{Backend, DeviceInfo, DeviceState, InterfaceInfo};
use crate::ledger::{Ledger, Listed, Publication, Published, State};
use crate::limits;
use crate::network::canonical;

/// The exports as the listeners see them. As long as every client may have every device there is
/// one view of them, whose frames are written once; else there is one for each address.
#[derive(Default)]
pub struct Views {
    /// What was said to be there, by bus id: whoever saw a device is told when it goes.
    told: BTreeMap<String, Arc<Listed>>,
    is_restricted: bool,
    views: BTreeMap<Option<IpAddr>, Rc<Announcement>>,
}

impl Views {
    /// A change is to be told: to everybody by [`change`](Self::change), then
    /// [`end`](Self::end) must follow.
    pub fn begin(&mut self, publication: &Publication) {
        self.views.clear();
        let listed = publication.added.iter().chain(&publication.updated);
        self.is_restricted |= listed.into_iter().any(|it| is_restricted(&it.listed));
    }

    /// What this listener is told of the change, and whether it is anything. `ledger` must be as
    /// of this change; `None`: it is past it already, and only the difference is of use.
    pub fn change(
        &mut self,
        peer: SocketAddr,
        publication: &Publication,
        ledger: Option<&Ledger>,
    ) -> Rc<Announcement> {
        let Self { told, views, is_restricted } = self;
        let view = views.entry(name(peer, *is_restricted)).or_insert_with(|| {
            let devices = ledger.map_or_else(Vec::new, |ledger| devices(ledger, peer));
            let change = change(told, publication, peer);
            Rc::new(Announcement::new(publication.sequence, devices, Some(change)))
        });
        Rc::clone(view)
    }

    /// The change was told. `is_last` is whether the ledger is as of this change.
    pub fn end(&mut self, publication: &Publication, is_last: bool) {
        if !is_last {
            self.views.clear();
        }
        for bus_id in &publication.removed {
            self.told.remove(bus_id);
        }
        for published in publication.added.iter().chain(&publication.updated) {
            let listed = Arc::clone(&published.listed);
            self.told.insert(listed.description.bus_id.clone(), listed);
        }
        self.is_restricted = self.told.values().any(|listed| is_restricted(listed));
    }

    /// Everything as this listener sees it now; all changes must have been told.
    pub fn present(&mut self, peer: SocketAddr, ledger: &Ledger) -> Rc<Announcement> {
        if self.views.len() > limits::CONTROL_CONNECTIONS {
            self.views.clear();
        }
        let view = self.views.entry(name(peer, self.is_restricted)).or_insert_with(|| {
            Rc::new(Announcement::new(ledger.sequence(), devices(ledger, peer), None))
        });
        assert_eq!(view.sequence(), ledger.sequence(), "all changes were told");
        Rc::clone(view)
    }
}

fn is_restricted(listed: &Listed) -> bool {
    !listed.networks.is_empty()
}

/// Peers with the same name see the same.
fn name(peer: SocketAddr, is_restricted: bool) -> Option<IpAddr> {
    is_restricted.then(|| canonical(peer.ip()))
}

fn devices(ledger: &Ledger, peer: SocketAddr) -> Vec<DeviceInfo> {
    let visible = ledger.published().filter(|it| it.listed.is_for(peer));
    visible.map(|published| device_info(published)).collect()
}

/// What differs for this peer. A device that it may see from now on is new to it, one that it may
/// no longer see is gone.
fn change(
    told: &BTreeMap<String, Arc<Listed>>,
    publication: &Publication,
    peer: SocketAddr,
) -> Change {
    let mut change = Change::default();
    let saw = |bus_id: &str| told.get(bus_id).is_some_and(|listed| listed.is_for(peer));
    for published in publication.added.iter().chain(&publication.updated) {
        let bus_id = &published.listed.description.bus_id;
        match (saw(bus_id), published.listed.is_for(peer)) {
            (true, true) => change.updated.push(device_info(published)),
            (false, true) => change.added.push(device_info(published)),
            (true, false) => change.removed.push(bus_id.clone()),
            (false, false) => {}
        }
    }
    change.removed.extend(publication.removed.iter().filter(|bus_id| saw(bus_id)).cloned());
    change.added.sort_by(|a, b| a.busid.cmp(&b.busid));
    change.updated.sort_by(|a, b| a.busid.cmp(&b.busid));
    change.removed.sort();
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
    use crate::ledger::UnavailableReason;
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

    /// Tells everything that is to be told, to these.
    fn tell(views: &mut Views, ledger: &mut Ledger, peers: &[SocketAddr]) -> Vec<Rc<Announcement>> {
        let mut said = Vec::new();
        while let Some(publication) = ledger.poll_publication() {
            views.begin(&publication);
            said.extend(peers.iter().map(|&it| views.change(it, &publication, Some(ledger))));
            views.end(&publication, true);
        }
        said
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
        let frame = views.present(peer(1), &ledger).snapshot(Dialect::Plain).expect("small");
        let json: serde_json::Value = serde_json::from_slice(&frame[4..]).expect("JSON");
        let golden = r#"{"devices":[{"busid":"1-1","stable_id":"usb:0525:a4a0:0123456789","backend":1,"path":"/sys/bus/usb/devices/1-1","serial":"0123456789","product":"SourceSink","vendor_id":1317,"product_id":42144,"bcd_device":1537,"busnum":1,"devnum":2,"speed":3,"device_class":0,"device_subclass":0,"device_protocol":0,"configuration_value":0,"num_configurations":2,"num_interfaces":0,"state":0,"status_code":1,"status_reason":"available"}]}"#;
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
        assert!(Rc::ptr_eq(&said[0], &views.present(peer(3), &ledger)));
    }

    #[test]
    fn a_device_for_others_is_never_named() {
        let (mut ledger, mut views) = (Ledger::default(), Views::default());
        let (mine, other) = (peer(1), peer(2));
        ledger.plug(named("1-1", &["192.0.2.1"]));
        let said = tell(&mut views, &mut ledger, &[mine, other]);
        assert!(delta(&said[0]).contains("\"added\":[{\"busid\":\"1-1\""), "{}", delta(&said[0]));
        assert_eq!(delta(&said[1]), "{\"sequence\":1}");
        let seen = views.present(other, &ledger).snapshot(Dialect::Plain).expect("small");
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
