//! The metadata files other than `$MFT` and `$Bitmap`.

use super::{Build, reference};
use crate::support::ntfs_builder::attribute::{Attr, Head, List, Mapped};
use crate::support::ntfs_builder::{EXTEND, ROOT, Version, index, system};
use crate::support::{put, upcase};

impl Build<'_> {
    /// A metadata file in the root directory.
    pub(super) fn system(&mut self, number: u64, sequence: u16, name: &str, attrs: Vec<Attr>) {
        let flags = if attrs.iter().any(|a| a.kind == 0x90) {
            9
        } else {
            1
        };
        self.metadata(ROOT, number, sequence, name, flags, attrs);
    }

    fn metadata(
        &mut self,
        parent: usize,
        number: u64,
        sequence: u16,
        name: &str,
        flags: u16,
        attrs: Vec<Attr>,
    ) {
        let mut duplicate = super::duplicate(&attrs, 0x06);
        if flags & 8 != 0 {
            duplicate.attributes |= 0x2000_0000;
        }
        let units: Vec<u16> = name.encode_utf16().collect();
        let value = self.add_child(parent, reference(number, sequence), &units, 3, &duplicate);
        let mut all = self.common(0x06);
        all.push(Attr::resident(0x30, "", value));
        all.extend(attrs);
        let head = Head {
            number,
            sequence,
            links: 1,
            flags,
        };
        self.place(head, all, List::Auto);
    }

    pub(super) fn small_system_files(
        &mut self,
        boot: u64,
        mirror: u64,
        mirror_len: u64,
        count: u64,
    ) {
        let (v, g) = (self.v, self.g);
        let fixed = |at: u64, clusters: u64, size: u64| {
            let m = Mapped {
                runs: vec![(Some(at), clusters)],
                allocated: clusters * g.cluster,
                size,
                initialised: size,
                ..Mapped::default()
            };
            Attr::mapped(0x80, "", 0, m)
        };
        let mirror_size = (4 * g.record).max(g.cluster);
        self.system(
            1,
            1,
            "$MFTMirr",
            vec![fixed(mirror, mirror_len, mirror_size)],
        );
        self.log_file();
        let mut information = vec![0; 12];
        (information[8], information[9]) = match v.version {
            Version::V12 => (1, 2),
            Version::V30 => (3, 0),
            Version::V31 => (3, 1),
        };
        put::u16(&mut information, 10, v.flags);
        let volume = vec![
            Attr::resident(0x60, "", put::utf16(&v.label)),
            Attr::resident(0x70, "", information),
            Attr::resident(0x80, "", Vec::new()),
        ];
        self.system(3, 3, "$Volume", volume);
        let definitions = self.data(&system::attribute_definitions());
        self.system(4, 4, "$AttrDef", vec![definitions]);
        self.system(7, 7, "$Boot", vec![fixed(0, boot, 8192)]);
        let bad = Mapped {
            runs: vec![(None, count)],
            allocated: count * g.cluster,
            size: count * g.cluster,
            ..Mapped::default()
        };
        let bad = Attr::mapped(0x80, "$Bad", 0, bad);
        self.system(
            8,
            8,
            "$BadClus",
            vec![Attr::resident(0x80, "", Vec::new()), bad],
        );
        if v.version == Version::V12 {
            self.system(9, 9, "$Quota", vec![Attr::resident(0x80, "", Vec::new())]);
        } else {
            let (sds, sdh, sii) = system::security();
            let mut sds = self.data(&sds);
            sds.name = "$SDS".encode_utf16().collect();
            let mut attrs = vec![sds];
            attrs.extend(self.view("$SDH", 0x12, &[sdh]));
            attrs.extend(self.view("$SII", 0x10, &[sii]));
            self.system(9, 9, "$Secure", attrs);
        }
        let upcase = self.data(&upcase::table());
        self.system(10, 10, "$UpCase", vec![upcase]);
        for number in 12..16_u16 {
            let mut attrs = self.common(0x06);
            attrs.push(Attr::resident(0x80, "", Vec::new()));
            let head = Head {
                number: number.into(),
                sequence: number,
                links: 0,
                flags: 1,
            };
            self.place(head, attrs, List::Auto);
        }
    }

    fn log_file(&mut self) {
        let v = self.v;
        let len = system::log_len(v);
        let log = self.plain(len, None);
        let pages = system::restart_pages(v.log, len);
        let mut bytes = vec![0xff; usize::try_from(len).unwrap()];
        put::bytes(&mut bytes, 0, &pages);
        for (at, plant) in &v.log_plants {
            put::bytes(&mut bytes, usize::try_from(*at).unwrap(), plant);
        }
        self.write_mapped(&log, 0, &bytes);
        self.system(2, 2, "$LogFile", vec![log]);
    }

    /// `$Quota`, `$ObjId` and `$Reparse`.
    pub(super) fn extend_files(&mut self) {
        let quota = self.take_number();
        let ids = self.take_number();
        let reparse = self.take_number();
        let mut attrs = self.view("$O", 0x11, &[]);
        attrs.extend(self.view("$Q", 0x10, &[system::quota_entry()]));
        self.metadata(EXTEND, quota, 1, "$Quota", 0x0d, attrs);
        let words = |e: &Vec<u8>, n: usize| -> Vec<u32> {
            e[16..16 + n]
                .chunks(4)
                .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
                .collect()
        };
        let mut objects = Vec::new();
        let mut points = Vec::new();
        for (at, node) in self.v.nodes.iter().enumerate().filter(|n| !n.1.deleted) {
            let me = self.node_ref(at);
            if let Some(id) = node.object_id {
                let mut data = me.to_le_bytes().to_vec();
                data.resize(56, 0);
                objects.push(index::view_entry(&id, &data));
            }
            if let Some((tag, _)) = node.reparse {
                let mut key = tag.to_le_bytes().to_vec();
                key.extend(me.to_le_bytes());
                points.push(index::view_entry(&key, &[]));
            }
        }
        objects.sort_by_key(|e| words(e, 16));
        points.sort_by_key(|e| words(e, 12));
        let attrs = self.view("$O", 0x13, &objects);
        self.metadata(EXTEND, ids, 1, "$ObjId", 0x0d, attrs);
        let attrs = self.view("$R", 0x13, &points);
        self.metadata(EXTEND, reparse, 1, "$Reparse", 0x0d, attrs);
    }
}
