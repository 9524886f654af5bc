//! What is in the frames of the control channel: JSON objects, as the dialects have them
//! (control-channel.md §3.1, §3.2).

use serde::{Deserialize, Serialize};

use super::Dialect;

/// A device as a server tells of it. Read from any dialect: words and numbers are both understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// Bus id at the server.
    pub busid: String,
    /// A name that stays when the device is plugged in elsewhere, where it has one.
    pub stable_id: String,
    /// How the server has it.
    pub backend: Backend,
    /// Where the server's system has it.
    pub path: String,
    /// Serial number string.
    pub serial: String,
    /// Product string; not in [`Dialect::Lease`].
    pub product: String,
    /// idVendor.
    pub vendor_id: u16,
    /// idProduct.
    pub product_id: u16,
    /// bcdDevice.
    pub bcd_device: u16,
    /// Number of its bus; not in [`Dialect::Lease`].
    pub busnum: u32,
    /// Number on its bus; not in [`Dialect::Lease`].
    pub devnum: u32,
    /// As in a device record.
    pub speed: u32,
    /// bDeviceClass.
    pub device_class: u8,
    /// bDeviceSubClass.
    pub device_subclass: u8,
    /// bDeviceProtocol.
    pub device_protocol: u8,
    /// bConfigurationValue of the active configuration.
    pub configuration_value: u8,
    /// bNumConfigurations.
    pub num_configurations: u8,
    /// bNumInterfaces of the active configuration.
    pub num_interfaces: u8,
    /// Its interfaces.
    #[serde(deserialize_with = "null_as_default")]
    pub interfaces: Vec<InterfaceInfo>,
    /// Whether it can be had.
    pub state: DeviceState,
    /// 1 available, 2 used, 3 error.
    pub status_code: i32,
    /// Why it is in that state.
    pub status_reason: String,
}

/// Class of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct InterfaceInfo {
    /// Class code.
    pub class: u8,
    /// Subclass code.
    pub subclass: u8,
    /// Protocol code.
    pub protocol: u8,
}

/// Whether a device can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Either")]
pub enum DeviceState {
    /// By anybody: `available`, 0.
    #[default]
    Available,
    /// Somebody has it, or will have it in a moment: `busy`, 1.
    Busy,
    /// Not at present: `unavailable`, 2.
    Unavailable,
}

/// How a server has a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Either")]
pub enum Backend {
    /// It does not say: left out, 0.
    #[default]
    Unspecified,
    /// `linux-sysfs`, 1.
    LinuxSysfs,
    /// Made by a program: 2; the dialects with words have none for it.
    Dynamic,
    /// `darwin-iokit`, 3.
    DarwinIokit,
    /// `windows-vboxusb`, 4.
    WindowsVboxusb,
}

/// A number or a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u8),
    Word(String),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Number(u8),
    Word(&'static str),
}

impl TryFrom<Either> for DeviceState {
    type Error = String;

    fn try_from(found: Either) -> Result<Self, String> {
        match found {
            Either::Number(0) => Ok(Self::Available),
            Either::Number(1) => Ok(Self::Busy),
            Either::Number(2) => Ok(Self::Unavailable),
            Either::Number(other) => Err(format!("{other} is no state of a device")),
            Either::Word(word) => match &word[..] {
                "" | "available" => Ok(Self::Available),
                "busy" => Ok(Self::Busy),
                "unavailable" => Ok(Self::Unavailable),
                _ => Err(format!("{word:?} is no state of a device")),
            },
        }
    }
}

impl TryFrom<Either> for Backend {
    type Error = String;

    /// A backend that is not known yet is no reason to lose a device.
    fn try_from(found: Either) -> Result<Self, String> {
        Ok(match found {
            Either::Number(1) => Self::LinuxSysfs,
            Either::Number(2) => Self::Dynamic,
            Either::Number(3) => Self::DarwinIokit,
            Either::Number(4) => Self::WindowsVboxusb,
            Either::Word(word) if word == "linux-sysfs" => Self::LinuxSysfs,
            Either::Word(word) if word == "darwin-iokit" => Self::DarwinIokit,
            Either::Word(word) if word == "windows-vboxusb" => Self::WindowsVboxusb,
            Either::Number(_) | Either::Word(_) => Self::Unspecified,
        })
    }
}

impl DeviceState {
    const fn written(self, dialect: Dialect) -> Written {
        match (dialect, self) {
            (Dialect::Plain, Self::Available) => Written::Number(0),
            (Dialect::Plain, Self::Busy) => Written::Number(1),
            (Dialect::Plain, Self::Unavailable) => Written::Number(2),
            (_, Self::Available) => Written::Word("available"),
            (_, Self::Busy) => Written::Word("busy"),
            (_, Self::Unavailable) => Written::Word("unavailable"),
        }
    }
}

impl Backend {
    const fn written(self, dialect: Dialect) -> Option<Written> {
        match (dialect, self) {
            (_, Self::Unspecified) => None,
            (Dialect::Plain, Self::LinuxSysfs) => Some(Written::Number(1)),
            (Dialect::Plain, Self::Dynamic) => Some(Written::Number(2)),
            (Dialect::Plain, Self::DarwinIokit) => Some(Written::Number(3)),
            (Dialect::Plain, Self::WindowsVboxusb) => Some(Written::Number(4)),
            (_, Self::LinuxSysfs) => Some(Written::Word("linux-sysfs")),
            (_, Self::Dynamic) => None,
            (_, Self::DarwinIokit) => Some(Written::Word("darwin-iokit")),
            (_, Self::WindowsVboxusb) => Some(Written::Word("windows-vboxusb")),
        }
    }
}

/// Optional keys in the order in which they are left out where the state of all devices does not
/// fit into a frame otherwise: first what a client can ask for elsewhere, last what rules match by.
pub const DROPPED_KEYS: [&str; 6] =
    ["status_reason", "path", "interfaces", "stable_id", "product", "serial"];

/// A device as a dialect writes it, without the first `dropped` of [`DROPPED_KEYS`].
#[must_use]
pub fn device_json(device: &DeviceInfo, dialect: Dialect, dropped: usize) -> serde_json::Value {
    let has = |key: &str| !DROPPED_KEYS[..dropped].contains(&key);
    let text =
        |key: &str, value: &'_ str| (has(key) && !value.is_empty()).then(|| value.to_owned());
    let is_lease = dialect == Dialect::Lease;
    let written = WrittenDevice {
        busid: &device.busid,
        stable_id: text("stable_id", &device.stable_id),
        backend: device.backend.written(dialect),
        path: text("path", &device.path),
        serial: text("serial", &device.serial),
        product: text("product", &device.product).filter(|_| !is_lease),
        vendor_id: device.vendor_id,
        product_id: device.product_id,
        bcd_device: (device.bcd_device != 0).then_some(device.bcd_device),
        busnum: (!is_lease).then_some(device.busnum),
        devnum: (!is_lease).then_some(device.devnum),
        speed: device.speed,
        device_class: device.device_class,
        device_subclass: device.device_subclass,
        device_protocol: device.device_protocol,
        configuration_value: device.configuration_value,
        num_configurations: device.num_configurations,
        num_interfaces: device.num_interfaces,
        interfaces: if has("interfaces") { &device.interfaces } else { &[] },
        state: device.state.written(dialect),
        status_code: (device.status_code != 0).then_some(device.status_code),
        status_reason: text("status_reason", &device.status_reason),
    };
    serde_json::to_value(written).expect("numbers, texts and lists can be written")
}

#[derive(Serialize)]
struct WrittenDevice<'a> {
    busid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<String>,
    vendor_id: u16,
    product_id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    bcd_device: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busnum: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devnum: Option<u32>,
    speed: u32,
    device_class: u8,
    device_subclass: u8,
    device_protocol: u8,
    configuration_value: u8,
    num_configurations: u8,
    num_interfaces: u8,
    #[serde(skip_serializing_if = "<[InterfaceInfo]>::is_empty")]
    interfaces: &'a [InterfaceInfo],
    state: Written,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
}

/// The complete state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// As in the frame's header; [`Dialect::Lease`] only.
    pub sequence: u64,
    /// All devices.
    #[serde(deserialize_with = "null_as_default")]
    pub devices: Vec<DeviceInfo>,
}

/// What differs. [`Dialect::Lease`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Delta {
    /// As in the frame's header.
    pub sequence: u64,
    /// New devices.
    #[serde(deserialize_with = "null_as_default")]
    pub added: Vec<DeviceInfo>,
    /// Devices in another state.
    #[serde(deserialize_with = "null_as_default")]
    pub updated: Vec<DeviceInfo>,
    /// Bus ids of devices that are gone.
    #[serde(deserialize_with = "null_as_default")]
    pub removed: Vec<String>,
}

/// Keep a device for me. [`Dialect::Lease`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct LeaseRequest {
    /// Which device.
    pub busid: String,
    /// Chosen by the client, to tell the answers apart.
    pub client_nonce: u64,
}

/// Kept, or why not. [`Dialect::Lease`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct LeaseResponse {
    /// Which device.
    pub busid: String,
    /// To be shown with the import; 0: refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub lease_id: u64,
    /// As asked.
    pub client_nonce: u64,
    /// The sequence number when it was asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// How long it holds, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl_millis: u64,
    /// `bad_request`, `unavailable` or `busy`; empty: kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_code: String,
    /// Why, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it with")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The reference implementation writes `null` for an empty list.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn gadget() -> DeviceInfo {
        DeviceInfo {
            busid: "1-1".into(),
            stable_id: "usb:0525:a4a0:0123456789".into(),
            backend: Backend::LinuxSysfs,
            path: "/sys/bus/usb/devices/1-1".into(),
            serial: "0123456789".into(),
            product: "SourceSink".into(),
            vendor_id: 1317,
            product_id: 42144,
            bcd_device: 1537,
            busnum: 1,
            devnum: 2,
            speed: 3,
            num_configurations: 2,
            status_code: 1,
            status_reason: "available".into(),
            ..DeviceInfo::default()
        }
    }

    /// Seen from a running server (control-channel.md §3.7).
    const GOLDEN: &str = r#"{"busid":"1-1","stable_id":"usb:0525:a4a0:0123456789","backend":1,
        "path":"/sys/bus/usb/devices/1-1","serial":"0123456789","product":"SourceSink",
        "vendor_id":1317,"product_id":42144,"bcd_device":1537,"busnum":1,"devnum":2,"speed":3,
        "device_class":0,"device_subclass":0,"device_protocol":0,"configuration_value":0,
        "num_configurations":2,"num_interfaces":0,"state":0,"status_code":1,
        "status_reason":"available"}"#;

    #[test]
    fn the_plain_form_is_that_of_a_running_server() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).expect("JSON");
        assert_eq!(device_json(&gadget(), Dialect::Plain, 0), golden);
        assert_eq!(serde_json::from_str::<DeviceInfo>(GOLDEN).expect("a device"), gadget());
    }

    #[test]
    fn words_and_numbers_are_both_read() {
        let busy = DeviceInfo { state: DeviceState::Busy, ..gadget() };
        for dialect in [Dialect::Plain, Dialect::PlainText] {
            let json = device_json(&busy, dialect, 0);
            assert_eq!(serde_json::from_value::<DeviceInfo>(json).expect("a device"), busy);
        }
        let json = device_json(&busy, Dialect::Lease, 0);
        assert_eq!(
            (json["state"].as_str(), json["backend"].as_str()),
            (Some("busy"), Some("linux-sysfs"))
        );
        for key in ["product", "busnum", "devnum"] {
            assert!(json.get(key).is_none(), "{key} is not in this dialect");
        }
        let wrong = r#"{"busid":"1-1","state":"gone"}"#;
        assert!(serde_json::from_str::<DeviceInfo>(wrong).is_err());
        let new = r#"{"busid":"1-1","backend":9,"state":""}"#;
        assert_eq!(
            serde_json::from_str::<DeviceInfo>(new).expect("read").backend,
            Backend::Unspecified
        );
    }

    #[test]
    fn keys_are_dropped_in_their_order() {
        let mut device = gadget();
        device.interfaces = vec![InterfaceInfo::default()];
        for dropped in 0..=DROPPED_KEYS.len() {
            let json = device_json(&device, Dialect::Plain, dropped);
            for (at, key) in DROPPED_KEYS.iter().enumerate() {
                assert_eq!(json.get(key).is_some(), at >= dropped, "{key} with {dropped} dropped");
            }
            assert_eq!(json["busid"], "1-1");
        }
    }

    #[test]
    fn null_is_an_empty_list() {
        let snapshot: Snapshot =
            serde_json::from_str(r#"{"sequence":3,"devices":null}"#).expect("as the reference");
        assert_eq!(snapshot, Snapshot { sequence: 3, devices: Vec::new() });
    }

    #[test]
    fn leases_are_written_without_what_they_lack() {
        let given = LeaseResponse {
            busid: "1-1".into(),
            lease_id: 9,
            client_nonce: 7,
            ttl_millis: 10_000,
            ..LeaseResponse::default()
        };
        let json = serde_json::to_string(&given).expect("JSON");
        assert_eq!(json, r#"{"busid":"1-1","lease_id":9,"client_nonce":7,"ttl_millis":10000}"#);
        let refused = LeaseResponse {
            busid: "1-1".into(),
            client_nonce: 7,
            error_code: "busy".into(),
            error_message: "lease already active".into(),
            ..LeaseResponse::default()
        };
        let json = serde_json::to_string(&refused).expect("JSON");
        let (start, end) = (r#"{"busid":"1-1","client_nonce":7,"#, r#""error_code":"busy","#);
        assert_eq!(json, format!(r#"{start}{end}"error_message":"lease already active"}}"#));
    }
}
