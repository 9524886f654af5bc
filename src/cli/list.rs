//! `list`: the devices of this machine or of a server.

use std::io::{self, Write};

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::local::{self, LocalDevice};
use super::{ServerArgs, counted, names};
use crate::attach::{self, Patience, Server};
use crate::error::Error;
use crate::usb::identity::Class;
use crate::wire::op::RemoteDevice;

/// List the USB devices of this machine or those that a server exports
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true)))]
pub(super) struct ListArgs {
    /// Devices of this machine
    #[arg(short, long, group = "whose")]
    pub(super) local: bool,
    /// Devices that this server exports: a name or address, HOST:PORT allowed
    #[arg(short, long, value_name = "HOST", group = "whose")]
    pub(super) remote: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "parsable")]
    pub(super) json: bool,
    /// Print one `busid=…#usbid=…#` line per device, as the stock tool does
    #[arg(short, long)]
    pub(super) parsable: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.remote {
        Some(remote) => {
            let server = args.server.server(remote)?;
            let devices = attach::list(&server, &Patience::default())?;
            let listed: Vec<_> = devices.iter().map(Listed::from_remote).collect();
            let words = Words::of_server(&server, remote);
            print(args, &words, &listed, out)?;
        }
        None => {
            let devices = local::devices();
            let listed: Vec<_> = devices.iter().map(Listed::from_local).collect();
            print(args, &Words::of_this_machine(), &listed, out)?;
        }
    }
    Ok(())
}

fn print(args: &ListArgs, words: &Words, listed: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        print_json(listed, out)
    } else if args.parsable {
        print_parsable(listed, out)
    } else {
        print_text(words, listed, out)
    }
}

/// A device as it is printed; also the JSON form.
#[derive(Debug, Serialize)]
struct Listed {
    bus_id: String,
    /// Four hexadecimal digits, as in the other tools.
    vendor_id: String,
    product_id: String,
    vendor_name: Option<String>,
    product_name: Option<String>,
    serial: Option<String>,
    speed: String,
    speed_code: u32,
    class: ListedClass,
    interfaces: Vec<ListedClass>,
    /// Local devices only.
    #[serde(skip_serializing_if = "Option::is_none")]
    drivers: Option<Vec<String>>,
    /// Local devices only.
    #[serde(skip_serializing_if = "Option::is_none")]
    exportable: Option<bool>,
    /// Local devices only: why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
    #[serde(skip)]
    title: String,
}

#[derive(Debug, Serialize)]
struct ListedClass {
    class: u8,
    subclass: u8,
    protocol: u8,
    name: String,
}

impl From<Class> for ListedClass {
    fn from(class: Class) -> Self {
        Self {
            class: class.class,
            subclass: class.subclass,
            protocol: class.protocol,
            name: names::class(class),
        }
    }
}

impl Listed {
    fn from_remote(device: &RemoteDevice) -> Self {
        Self {
            bus_id: device.bus_id.clone(),
            vendor_id: format!("{:04x}", device.vendor),
            product_id: format!("{:04x}", device.product),
            vendor_name: names::vendor(device.vendor).map(str::to_owned),
            product_name: names::product(device.vendor, device.product).map(str::to_owned),
            serial: not_empty(&device.serial),
            speed: device.speed.to_string(),
            speed_code: device.speed.code(),
            class: device.class.into(),
            interfaces: device.interfaces.iter().copied().map(Into::into).collect(),
            drivers: None,
            exportable: None,
            obstacle: None,
            title: names::describe(device.vendor, device.product, "", ""),
        }
    }

    fn from_local(device: &LocalDevice) -> Self {
        let of = &device.description;
        let own = |known: Option<&str>, own: &str| known.map(str::to_owned).or(not_empty(own));
        Self {
            bus_id: of.bus_id.clone(),
            vendor_id: format!("{:04x}", of.vendor),
            product_id: format!("{:04x}", of.product),
            vendor_name: own(names::vendor(of.vendor), &of.manufacturer_name),
            product_name: own(names::product(of.vendor, of.product), &of.product_name),
            serial: not_empty(&of.serial),
            speed: of.speed.to_string(),
            speed_code: of.speed.code(),
            class: of.class.into(),
            interfaces: of.interfaces.iter().copied().map(Into::into).collect(),
            drivers: Some(device.drivers.clone()),
            exportable: Some(device.obstacle.is_none()),
            obstacle: device.obstacle.clone(),
            title: names::describe(of.vendor, of.product, &of.manufacturer_name, &of.product_name),
        }
    }
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// What differs between the two lists in words.
struct Words {
    heading: String,
    none: String,
    /// The command for a device, to which its bus id is added.
    command: String,
}

impl Words {
    fn of_server(server: &Server, remote: &str) -> Self {
        let port = if server.tcp_port == crate::wire::op::PORT || remote != server.host {
            String::new()
        } else {
            format!(" -t {}", server.tcp_port)
        };
        Self {
            heading: format!("Devices exported by {server}"),
            none: format!("{server} exports no device that is free"),
            command: format!("sudo usbip-fast attach -r {remote}{port} -b"),
        }
    }

    fn of_this_machine() -> Self {
        Self {
            heading: "USB devices of this machine".into(),
            none: "this machine has no USB device that could be exported".into(),
            command: "sudo usbip-fast serve -b".into(),
        }
    }
}

fn print_json(listed: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        devices: &'a [Listed],
    }
    serde_json::to_writer_pretty(&mut *out, &Document { schema: 1, devices: listed })?;
    writeln!(out)
}

fn print_parsable(listed: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    for device in listed {
        let Listed { bus_id, vendor_id, product_id, .. } = device;
        writeln!(out, "busid={bus_id}#usbid={vendor_id}:{product_id}#")?;
    }
    Ok(())
}

fn print_text(words: &Words, listed: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    if listed.is_empty() {
        return writeln!(out, "{}", words.none);
    }
    writeln!(out, "{} ({})", words.heading, counted(listed.len(), "device"))?;
    let indent = " ".repeat(6);
    for device in listed {
        let Listed { bus_id, vendor_id, product_id, title, speed, .. } = device;
        // The shape of this line is the stock tool's, because scripts look for it.
        writeln!(out, "\n  {bus_id}: {title} ({vendor_id}:{product_id})")?;
        write!(out, "{indent}{speed}")?;
        if let Some(serial) = &device.serial {
            write!(out, ", serial {serial}")?;
        }
        match device.drivers.as_deref() {
            Some([]) => write!(out, ", no driver")?,
            Some(drivers) => write!(out, ", driver {}", drivers.join(", "))?,
            None => {}
        }
        writeln!(out)?;
        for (number, interface) in device.interfaces.iter().enumerate() {
            writeln!(out, "{indent}interface {number}: {}", interface.name)?;
        }
        match &device.obstacle {
            Some(obstacle) => writeln!(out, "{indent}not to be exported: it {obstacle}")?,
            None => writeln!(out, "{indent}{} {bus_id}", words.command)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usb::identity::DeviceDescription;
    use crate::usb::speed::Speed;
    use usbip_fast_native::client::Family;

    fn remote() -> Vec<RemoteDevice> {
        let zero = RemoteDevice {
            path: "/sys/bus/usb/devices/1-1".into(),
            bus_id: "1-1".into(),
            serial: "0123".into(),
            bus_number: 1,
            device_number: 2,
            speed: Speed::High,
            vendor: 0x0525,
            product: 0xa4a0,
            release: 0x0100,
            class: Class { class: 0xff, subclass: 0, protocol: 0 },
            configuration: 1,
            configurations: 1,
            interface_count: 1,
            interfaces: vec![Class { class: 3, subclass: 1, protocol: 1 }],
        };
        let other = RemoteDevice {
            bus_id: "1-10.2".into(),
            serial: String::new(),
            vendor: 0xfff0,
            product: 1,
            speed: Speed::Super,
            interface_count: 0,
            interfaces: Vec::new(),
            ..zero.clone()
        };
        vec![zero, other]
    }

    fn listed() -> Vec<Listed> {
        remote().iter().map(Listed::from_remote).collect()
    }

    fn text(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parsable_text_is_that_of_the_stock_tool() {
        let text = text(|out| print_parsable(&listed(), out));
        assert_eq!(text, "busid=1-1#usbid=0525:a4a0#\nbusid=1-10.2#usbid=fff0:0001#\n");
    }

    #[test]
    fn text_for_people() {
        let server = Server { host: "pi".into(), tcp_port: 3241, family: Family::Any };
        let words = Words::of_server(&server, "pi");
        let text = text(|out| print_text(&words, &listed(), out));
        let expected = "\
Devices exported by pi:3241 (2 devices)

  1-1: Netchip Technology, Inc. : Linux-USB \"Gadget Zero\" (0525:a4a0)
      480 Mbit/s, serial 0123
      interface 0: Human Interface Device, Boot Interface Subclass, Keyboard (03/01/01)
      sudo usbip-fast attach -r pi -t 3241 -b 1-1

  1-10.2: unknown vendor : unknown product (fff0:0001)
      5 Gbit/s
      sudo usbip-fast attach -r pi -t 3241 -b 1-10.2
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_command_repeats_how_the_server_was_named() {
        let server = Server { host: "pi".into(), tcp_port: 9, family: Family::Any };
        assert!(Words::of_server(&server, "pi:9").command.ends_with("attach -r pi:9 -b"));
        let server = Server { tcp_port: 3240, ..server };
        assert!(Words::of_server(&server, "pi").command.ends_with("attach -r pi -b"));
    }

    #[test]
    fn local_devices_say_who_has_them() {
        let zero = remote().remove(0);
        let device = LocalDevice {
            description: DeviceDescription {
                path: zero.path,
                bus_id: zero.bus_id,
                location: String::new(),
                bus_number: 1,
                device_number: 2,
                speed: Speed::High,
                vendor: 0x0525,
                product: 0xa4a0,
                release: 0,
                class: zero.class,
                configuration: 1,
                configurations: 1,
                interfaces: Vec::new(),
                manufacturer_name: String::new(),
                product_name: String::new(),
                serial: String::new(),
                descriptors: Vec::new(),
            },
            drivers: vec!["usbtest".into()],
            obstacle: None,
        };
        let imported = LocalDevice {
            obstacle: Some("is imported".into()),
            drivers: Vec::new(),
            ..device.clone()
        };
        let listed = [Listed::from_local(&device), Listed::from_local(&imported)];
        let text = text(|out| print_text(&Words::of_this_machine(), &listed, out));
        assert!(text.contains("480 Mbit/s, driver usbtest\n"), "{text}");
        assert!(text.contains("sudo usbip-fast serve -b 1-1\n"), "{text}");
        assert!(text.contains("480 Mbit/s, no driver\n"), "{text}");
        assert!(text.contains("not to be exported: it is imported\n"), "{text}");
    }

    #[test]
    fn an_empty_list_is_a_sentence() {
        let text = text(|out| print_text(&Words::of_this_machine(), &[], out));
        assert_eq!(text, "this machine has no USB device that could be exported\n");
    }

    #[test]
    fn json_has_a_schema_and_hexadecimal_ids() {
        let text = text(|out| print_json(&listed(), out));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["schema"], 1);
        assert_eq!(value["devices"][0]["vendor_id"], "0525");
        assert_eq!(value["devices"][0]["serial"], "0123");
        assert_eq!(value["devices"][1]["serial"], serde_json::Value::Null);
        assert_eq!(value["devices"][0]["interfaces"][0]["class"], 3);
        assert!(value["devices"][0].get("drivers").is_none());
    }
}
