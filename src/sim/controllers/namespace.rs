//! Empties namespaces that are being deleted.

use jiff::Timestamp;

use super::objects::{Writer, all, is_deleting, key, name, namespace};
use crate::sim::api::{ApiServer, DeleteOptions};

pub fn step(api: &mut ApiServer, now: Timestamp) -> Option<Timestamp> {
    for terminating in all(api, "namespaces").iter().filter(|n| is_deleting(n)) {
        let kinds: Vec<_> = api.kinds().iter().filter(|k| k.namespaced).map(|k| k.id.clone()).collect();
        let mut left = 0;
        for kind in kinds {
            for object in all(api, &kind).iter().filter(|o| namespace(o) == name(terminating)) {
                left += 1;
                if !is_deleting(object) {
                    Writer::new(api, "namespace-controller", now).delete(&kind, &key(object), &DeleteOptions::default());
                }
            }
        }
        if left == 0 {
            Writer::new(api, "namespace-controller", now).finalize(&key(terminating));
        }
    }
    None
}
