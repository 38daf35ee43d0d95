//! Topics and groups of a cluster: made, deleted, emptied, asked about. Each call waits for its answer.
//!
//! Calls of librdkafka that go to a group's coordinator (offsets of a group, its members) are not used: one
//! that is unanswered when its client ends fails an assertion and ends the process (2.12.1).

use std::ffi::{c_char, CString};
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::{c_text, checked, code, millis, text_of, Client, Code, Event, Failure, List, Queue, Result};

/// A topic to be made.
#[derive(Debug)]
pub struct NewTopic<'a> {
    pub name: &'a str,
    pub partitions: i32,
    pub replication: i32,
    /// Settings of the topic by their names.
    pub settings: &'a [(&'a str, String)],
}

/// The options of one call.
struct Options(*mut sys::rd_kafka_AdminOptions_t);

impl Options {
    fn new(client: &Client, operation: sys::rd_kafka_admin_op_t, timeout: Duration) -> Self {
        let mut text = [0 as c_char; 256];
        let millis = millis(timeout);
        // SAFETY: the options are ours; a refused timeout leaves the default.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client.ptr(), operation);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, millis, text.as_mut_ptr(), text.len());
            sys::rd_kafka_AdminOptions_set_operation_timeout(options, millis, text.as_mut_ptr(), text.len());
            Self(options)
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the last hold.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0) };
    }
}

/// A call whose answer comes from a queue of its own.
struct Call {
    options: Options,
    queue: Queue,
    timeout: Duration,
}

impl Call {
    fn new(client: &Arc<Client>, operation: sys::rd_kafka_admin_op_t, timeout: Duration) -> Result<Self> {
        let queue =
            Queue::new(client).ok_or_else(|| Failure::new(Code::CriticalSystemResource, "no queue for an answer"))?;
        Ok(Self { options: Options::new(client, operation, timeout), queue, timeout })
    }

    /// The answer. librdkafka ends every call by its timeout; a little later it is late.
    fn answer(&self) -> Result<Event> {
        let event = self.queue.poll(self.timeout + Duration::from_millis(500));
        let event = event.ok_or_else(|| Failure::new(Code::OperationTimedOut, "no answer in time"))?;
        event.result().map(|()| event)
    }
}

/// # Safety
/// `topics` is an array of `count` results that live for the call.
unsafe fn topic_results(topics: *mut *const sys::rd_kafka_topic_result_t, count: usize) -> Result<()> {
    for index in 0..count {
        // SAFETY: within the array.
        unsafe {
            let topic = *topics.add(index);
            checked(code::rd_kafka_topic_result_error(topic)).map_err(|failure| {
                let text = text_of(sys::rd_kafka_topic_result_error_string(topic));
                Failure { text: if text.is_empty() { failure.text } else { text }, ..failure }
            })?;
        }
    }
    Ok(())
}

impl Client {
    /// Makes a topic.
    pub fn create_topic(self: &Arc<Self>, new: &NewTopic<'_>, timeout: Duration) -> Result<()> {
        let call = Call::new(self, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout)?;
        let name = c_text(new.name)?;
        let settings: Vec<(CString, CString)> =
            new.settings.iter().map(|(name, value)| Ok((c_text(name)?, c_text(value)?))).collect::<Result<_>>()?;
        let mut text = [0 as c_char; 256];
        // SAFETY: texts live for the calls; the topic is ours and destroyed; the event keeps its results.
        unsafe {
            let mut topic = sys::rd_kafka_NewTopic_new(
                name.as_ptr(),
                new.partitions,
                new.replication,
                text.as_mut_ptr(),
                text.len(),
            );
            if topic.is_null() {
                return Err(Failure::new(Code::InvalidArgument, text_of(text.as_ptr())));
            }
            for (name, value) in &settings {
                sys::rd_kafka_NewTopic_set_config(topic, name.as_ptr(), value.as_ptr());
            }
            sys::rd_kafka_CreateTopics(self.ptr(), &raw mut topic, 1, call.options.0, call.queue.ptr());
            sys::rd_kafka_NewTopic_destroy(topic);
            let answer = call.answer()?;
            let mut count = 0;
            let result = sys::rd_kafka_event_CreateTopics_result(answer.ptr());
            let topics = sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
            topic_results(topics, count)
        }
    }

    /// Deletes a topic.
    pub fn delete_topic(self: &Arc<Self>, name: &str, timeout: Duration) -> Result<()> {
        let call = Call::new(self, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS, timeout)?;
        let name = c_text(name)?;
        // SAFETY: as in `create_topic`.
        unsafe {
            let mut topic = sys::rd_kafka_DeleteTopic_new(name.as_ptr());
            sys::rd_kafka_DeleteTopics(self.ptr(), &raw mut topic, 1, call.options.0, call.queue.ptr());
            sys::rd_kafka_DeleteTopic_destroy(topic);
            let answer = call.answer()?;
            let mut count = 0;
            let result = sys::rd_kafka_event_DeleteTopics_result(answer.ptr());
            let topics = sys::rd_kafka_DeleteTopics_result_topics(result, &raw mut count);
            topic_results(topics, count)
        }
    }

    /// Deletes what is before the offsets in `list`.
    pub fn delete_records(self: &Arc<Self>, list: &List, timeout: Duration) -> Result<()> {
        let call = Call::new(self, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETERECORDS, timeout)?;
        // SAFETY: as in `create_topic`; the list of the answer is copied.
        unsafe {
            let mut records = sys::rd_kafka_DeleteRecords_new(list.ptr());
            sys::rd_kafka_DeleteRecords(self.ptr(), &raw mut records, 1, call.options.0, call.queue.ptr());
            sys::rd_kafka_DeleteRecords_destroy(records);
            let answer = call.answer()?;
            let result = sys::rd_kafka_event_DeleteRecords_result(answer.ptr());
            let answered = List::copy(sys::rd_kafka_DeleteRecords_result_offsets(result));
            let first = answered.iter().find_map(|partition| partition.result.err());
            first.map_or(Ok(()), Err)
        }
    }

    /// The groups that have members which may read one of `topics`. Asks every broker.
    pub fn groups_of(&self, topics: &[&str], timeout: Duration) -> Result<Vec<String>> {
        let mut list = std::ptr::null();
        // SAFETY: the client lives; the list is ours until it is destroyed, with arrays of the lengths told.
        unsafe {
            let code = code::rd_kafka_list_groups(self.ptr(), std::ptr::null(), &raw mut list, millis(timeout));
            if list.is_null() {
                return checked(code).map(|()| Vec::new());
            }
            // Of brokers that do not answer in time, what others say counts.
            let count = usize::try_from((*list).group_cnt).unwrap_or_default();
            let groups = if count == 0 { &[][..] } else { std::slice::from_raw_parts((*list).groups, count) };
            let found = groups.iter().filter(|group| reads(group, topics)).map(|group| text_of(group.group)).collect();
            sys::rd_kafka_group_list_destroy(list);
            Ok(found)
        }
    }

    /// The settings of a topic as the cluster has them.
    pub fn topic_settings(self: &Arc<Self>, name: &str, timeout: Duration) -> Result<Vec<(String, String)>> {
        let call = Call::new(self, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout)?;
        let name = c_text(name)?;
        // SAFETY: as in `create_topic`.
        unsafe {
            let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
            let mut asked = sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
            sys::rd_kafka_DescribeConfigs(self.ptr(), &raw mut asked, 1, call.options.0, call.queue.ptr());
            sys::rd_kafka_ConfigResource_destroy(asked);
            let answer = call.answer()?;
            let mut count = 0;
            let result = sys::rd_kafka_event_DescribeConfigs_result(answer.ptr());
            let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
            if count == 0 {
                return Ok(Vec::new());
            }
            checked(code::rd_kafka_ConfigResource_error(*resources))?;
            let entries = sys::rd_kafka_ConfigResource_configs(*resources, &raw mut count);
            let read = (0..count).map(|index| {
                let entry = *entries.add(index);
                (text_of(sys::rd_kafka_ConfigEntry_name(entry)), text_of(sys::rd_kafka_ConfigEntry_value(entry)))
            });
            Ok(read.collect())
        }
    }
}

/// Whether a member of the group names one of the topics, or does not say what it reads.
///
/// # Safety
/// `group` is one of a list that lives for the call.
unsafe fn reads(group: &sys::rd_kafka_group_info, topics: &[&str]) -> bool {
    let count = usize::try_from(group.member_cnt).unwrap_or_default();
    (0..count).any(|index| {
        // SAFETY: within the array, and bytes with their length.
        let said = unsafe {
            let member = &*group.members.add(index);
            let len = usize::try_from(member.member_metadata_size).unwrap_or_default();
            match member.member_metadata.is_null() || len == 0 {
                true => &[][..],
                false => std::slice::from_raw_parts(member.member_metadata.cast::<u8>(), len),
            }
        };
        said.is_empty() || topics.iter().any(|topic| said.windows(topic.len()).any(|own| own == topic.as_bytes()))
    })
}
