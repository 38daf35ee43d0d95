//! librdkafka's pretended cluster, for errors at an exact request. For tests.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use rdkafka_sys as sys;

use super::{text_of, Client, Role};

/// Requests to publish.
const PRODUCE: i16 = 0;

/// A cluster inside the process; gone with it.
pub struct Mock {
    cluster: NonNull<sys::rd_kafka_mock_cluster_t>,
    /// It runs on the threads of a client.
    _client: Arc<Client>,
}

impl Mock {
    pub fn new(brokers: i32) -> Self {
        let client = Client::new(Role::Producer, &[("log.queue".into(), "true".into())]).unwrap();
        // SAFETY: the client lives as long as the cluster.
        let cluster = NonNull::new(unsafe { sys::rd_kafka_mock_cluster_new(client.ptr(), brokers) }).unwrap();
        Self { cluster, _client: client }
    }

    /// The addresses of its brokers.
    pub fn brokers(&self) -> Vec<String> {
        // SAFETY: the text is the cluster's.
        let list = unsafe { text_of(sys::rd_kafka_mock_cluster_bootstraps(self.cluster.as_ptr())) };
        list.split(',').map(str::to_owned).collect()
    }

    pub fn topic(&self, name: &str, partitions: i32) {
        let name = CString::new(name).unwrap();
        // SAFETY: the name lives for the call.
        unsafe { sys::rd_kafka_mock_topic_create(self.cluster.as_ptr(), name.as_ptr(), partitions, 1) };
    }

    pub fn lead(&self, topic: &str, partition: i32, broker: i32) {
        let topic = CString::new(topic).unwrap();
        // SAFETY: as above.
        unsafe { sys::rd_kafka_mock_partition_set_leader(self.cluster.as_ptr(), topic.as_ptr(), partition, broker) };
    }

    /// Each answer of its first broker takes this long.
    pub fn slow_down(&self, time: std::time::Duration) {
        let millis = i32::try_from(time.as_millis()).unwrap();
        // SAFETY: the cluster lives.
        unsafe { sys::rd_kafka_mock_broker_set_rtt(self.cluster.as_ptr(), 1, millis) };
    }

    /// The next requests to publish are answered so.
    pub fn fail(&self, errors: &[sys::rd_kafka_resp_err_t]) {
        // SAFETY: the array has this length, and is copied.
        unsafe {
            sys::rd_kafka_mock_push_request_errors_array(self.cluster.as_ptr(), PRODUCE, errors.len(), errors.as_ptr());
        }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // SAFETY: the last hold.
        unsafe { sys::rd_kafka_mock_cluster_destroy(self.cluster.as_ptr()) };
    }
}

impl Client {
    /// Breaks an idempotent producer, as an answer out of order would.
    pub fn break_down(&self) {
        let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        // SAFETY: the client lives, the text is static.
        unsafe { sys::rd_kafka_test_fatal_error(self.ptr(), code, c"a test".as_ptr()) };
    }
}
