//! The conformance suite: one list of cases, written against the `Broker` trait, run on every
//! backend that is mounted here, and on the hub itself.
//!
//! A case says what it needs; a mount says what it has. A case that a mount cannot run is a skip,
//! and the set of all skips is committed in `skips.txt`: a skip that appears or vanishes fails
//! [`skips_are_as_committed`], so that no case is lost unseen. To mount another backend, write a
//! file under `mounts/` that implements [`harness::Harness`], and add a line to [`mounts!`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod close;
mod declare;
mod events;
mod faults;
mod groups;
mod harness;
mod lease;
mod mounts;
mod order;
mod publish;
mod replay;
mod retry;
mod space;
mod start;
mod tasks;
mod time;
mod wildcard;

use harness::{Bench, Case, Mount, Need};

/// Hands the table of all cases to the macro `$then`, behind `$with`.
macro_rules! cases {
    ($then:ident $($with:tt)*) => {
        $then! { $($with)*
            publish {
                an_empty_payload_is_a_message [Tasks]
                every_record_taken_ends_once [Tasks]
                every_event_taken_ends_once [Events]
                every_field_of_a_task_arrives [Tasks Headers]
                every_field_of_an_event_arrives [Events Headers]
                a_given_id_is_kept_and_a_made_one_is_unique [Tasks]
                an_empty_key_is_not_no_key [Tasks]
                a_large_payload_arrives_whole [Tasks]
                a_task_waits_for_its_first_consumer [Tasks]
                an_empty_batch_is_nothing [Tasks]
                a_message_outlives_its_broker [Tasks]
                destinations_of_one_topic_are_one_place [Tasks]
                a_batch_is_checked_record_by_record [Tasks Checks]
                a_name_that_nobody_takes_is_refused [Tasks Checks]
                a_prefetch_out_of_range_is_refused [Tasks Checks]
            }
            tasks {
                competing_consumers_share [Tasks Shares]
                no_task_is_delivered_twice [Tasks]
                order_is_kept_for_one_consumer [Tasks]
                prefetch_is_never_exceeded [Tasks]
                a_settle_makes_room_and_rings [Tasks]
                a_fetch_gives_no_more_than_asked [Tasks]
                ready_comes_once_after_idle [Tasks ReadyOnce]
                a_new_task_rings_an_idle_consumer [Tasks]
                an_acked_task_never_comes_back [Tasks]
                a_second_verdict_is_ignored [Tasks Tags]
                unsettled_tasks_go_to_others_on_close [Tasks]
                a_closed_source_gives_nothing [Tasks]
                queues_are_apart [Tasks]
                priority_goes_first [Tasks Priority]
                priority_keeps_order_inside [Tasks Priority]
                a_backlog_of_thousands_drains [Tasks]
            }
            retry {
                a_retry_counts_and_is_marked [Tasks]
                a_retry_waits_for_its_delay [Tasks RetryDelay VirtualTime]
                a_retry_is_passed_by_others [Tasks RetryDelay VirtualTime]
                attempts_of_earlier_copies_count [Tasks Attempts]
                a_return_does_not_count [Tasks Return]
                a_retry_keeps_the_message [Tasks Headers]
                an_event_is_retried_in_its_group [Events RetryDelay VirtualTime]
                a_retry_survives_its_consumer [Tasks RetryDelay VirtualTime]
            }
            lease {
                a_lease_ends_and_tells [Tasks Lease Revoked VirtualTime]
                a_verdict_after_the_lease_is_ignored [Tasks Lease Revoked VirtualTime Tags]
                extend_keeps_a_lease [Tasks Lease Extend Revoked VirtualTime]
                extend_after_the_end_is_stale [Tasks Lease Extend Revoked VirtualTime]
                no_lease_never_ends [Tasks VirtualTime]
            }
            time {
                an_expired_task_is_not_delivered [Tasks Ttl VirtualTime]
                an_expired_event_is_not_delivered [Events Log Ttl VirtualTime]
                a_ttl_of_the_topic_holds_for_all [Tasks Ttl Declare VirtualTime]
                expired_tasks_are_counted [Tasks Ttl Admin VirtualTime]
                a_delayed_task_comes_at_its_time [Tasks Delay VirtualTime]
                delayed_tasks_come_in_the_order_of_their_times [Tasks Delay VirtualTime]
                a_delay_is_overtaken [Tasks Delay VirtualTime]
                a_delay_longer_than_the_ttl_never_comes [Tasks Delay Ttl VirtualTime]
            }
            wildcard {
                a_star_is_one_word_of_tasks [Tasks WildcardTasks]
                a_hash_is_any_number_of_words_of_tasks [Tasks WildcardTasks]
                a_pattern_finds_queues_made_later [Tasks WildcardTasks]
                a_pattern_competes_with_a_name [Tasks WildcardTasks]
                prefetch_holds_over_all_queues_of_a_pattern [Tasks WildcardTasks]
                a_star_is_one_word_of_events [Events WildcardEvents]
                a_hash_is_any_number_of_words_of_events [Events WildcardEvents]
                a_pattern_finds_event_topics_made_later [Events WildcardEvents]
            }
            events {
                an_event_is_kept_without_a_consumer [Events Log]
                offsets_rise_in_a_partition [Events Offsets]
                a_key_stays_in_its_partition [Events Declare Partitions]
                order_per_key_is_kept [Events Declare Partitions]
                event_prefetch_is_never_exceeded [Events]
                many_events_reach_every_group [Events]
                retention_drops_the_oldest_and_counts [Events Declare Bounds Admin Offsets]
                old_events_age_out [Events Declare VirtualTime]
            }
            groups {
                every_group_sees_every_event [Events Log]
                members_of_a_group_share [Events]
                a_group_goes_on_where_it_was [Events]
                unsettled_events_come_again_to_the_group [Events]
                a_private_group_sees_all_from_now_on [Events]
                private_groups_do_not_share [Events]
            }
            start {
                earliest_is_the_oldest_kept [Events Log]
                latest_is_from_now_on [Events]
                an_offset_is_where_it_starts [Events ReplayOffset]
                an_offset_behind_the_end_waits [Events ReplayOffset]
                a_time_is_where_it_starts [Events ReplayTime VirtualTime]
                a_group_with_a_place_ignores_the_start [Events Log]
                seek_to_the_earliest_gives_all_again [Events Seek]
                seek_to_the_latest_skips_what_waits [Events Seek]
                seek_to_an_offset_goes_there [Events Seek ReplayOffset]
                a_verdict_from_before_a_seek_moves_nothing [Events Seek]
            }
            replay {
                reading_leaves_groups_untouched [Events Log ReadOnly]
                stop_now_ends_behind_the_last [Events ReadOnly]
                stop_now_of_an_empty_topic_ends_at_once [Events ReadOnly]
                stop_at_a_time_ends_before_it [Events ReadOnly ReplayTime VirtualTime]
                a_replay_from_a_time_to_a_time [Events ReadOnly ReplayTime VirtualTime]
                a_replay_needs_no_verdicts [Events ReadOnly]
            }
            order {
                one_key_is_out_once_at_a_time [Tasks OrderedKey OrderedTasks]
                other_keys_flow_meanwhile [Tasks OrderedKey OrderedTasks]
                strict_order_waits_for_a_retry [Tasks OrderedKey OrderedTasks RetryDelay VirtualTime]
                key_order_passes_a_retry [Tasks OrderedKey OrderedTasks RetryDelay VirtualTime]
                events_of_one_key_are_out_once_at_a_time [Events OrderedKey]
                publishers_at_once_keep_the_order_of_their_keys [Tasks]
            }
            space {
                a_prefix_is_taken_and_the_rest_stays [Tasks Declare Bounds]
                full_says_when_there_is_space [Tasks Declare Bounds Space]
                space_that_is_there_is_said_at_once [Tasks Space]
                bytes_are_bounded_too [Tasks Declare Bounds]
                dropping_the_oldest_is_counted [Tasks Declare Bounds Admin]
                a_slow_consumer_is_back_pressure [Tasks Declare Bounds Space]
            }
            declare {
                declaring_twice_is_the_same [Tasks Declare Bounds]
                declaring_partitions_twice_is_the_same [Events Declare Partitions]
                another_setting_is_a_conflict_with_both_values [Events Declare Partitions]
                the_other_kind_is_refused [Tasks Events Declare]
            }
            admin {
                describe_counts [Tasks Admin]
                describe_counts_bytes [Tasks Admin Bytes]
                describe_counts_delayed_and_unsettled [Tasks Delay Admin VirtualTime]
                describe_counts_the_lag_of_groups [Events Admin]
                describe_takes_a_pattern [Tasks Admin]
                describe_of_nothing_is_empty [Tasks Admin]
                purge_removes_what_waits [Tasks Purge]
                purge_leaves_what_is_out [Tasks Purge]
                delete_removes_all_and_the_topic_may_come_back [Tasks Purge]
            }
            close {
                close_tells_what_is_lost [Tasks CloseReport]
                calls_after_close_are_closed [Tasks]
                closing_twice_is_harmless [Tasks]
                sources_of_a_closed_broker_give_nothing [Tasks]
                closing_a_source_twice_is_harmless [Tasks]
                outcomes_are_told_before_close_returns [Tasks]
                close_while_others_publish [Tasks]
            }
        }
    };
}

macro_rules! table {
    ($($module:ident { $($case:ident [$($need:ident)*])* })*) => {
        const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            needs: &[$(Need::$need),*],
        },)*)*];
    };
}

macro_rules! mount {
    ($mount:ident $($module:ident { $($case:ident [$($need:ident)*])* })*) => {
        $(mod $module { $(
            #[test]
            fn $case() {
                crate::run(stringify!($mount), &[$(crate::Need::$need),*], crate::$module::$case);
            }
        )* })*
    };
}

macro_rules! mounts {
    ($($(#[$when:meta])* $mount:ident = $make:path;)*) => {
        const MOUNTS: &[(&str, Mount)] = &[$($(#[$when])* (stringify!($mount), $make),)*];
        $($(#[$when])* mod $mount { cases! { mount $mount } })*
    };
}

cases! { table }

mounts! {
    embedded_memory = mounts::embedded::memory;
    embedded_memory_tiny = mounts::embedded::memory_tiny;
    embedded_disk = mounts::disk::disk;
    embedded_disk_tiny = mounts::disk::disk_tiny;
    wrapped = mounts::embedded::wrapped;
    hub_memory = mounts::hub::memory;
    hub_disk = mounts::hub::disk;
    #[cfg(feature = "rabbitmq")]
    rabbitmq_quorum = mounts::rabbitmq::quorum;
    #[cfg(feature = "rabbitmq")]
    rabbitmq_classic = mounts::rabbitmq::classic;
    #[cfg(feature = "kafka")]
    kafka = mounts::kafka::kafka;
}

/// Runs one case on one mount, unless the mount lacks what it needs.
fn run(mount: &str, needs: &[Need], case: fn(&Bench)) {
    let (_, make) = MOUNTS.iter().find(|(name, _)| *name == mount).expect("every mount is in the table");
    let bench = Bench::new(make());
    if needs.iter().all(|need| bench.has(*need)) {
        case(&bench);
    }
}

#[test]
fn skips_are_as_committed() {
    let mut skips = Vec::new();
    for (mount, make) in MOUNTS {
        let bench = Bench::new(make());
        for case in CASES {
            let lacking: Vec<String> =
                case.needs.iter().filter(|need| !bench.has(**need)).map(|need| format!("{need:?}")).collect();
            if !lacking.is_empty() {
                skips.push(format!("{mount} {} lacks {}", case.name, lacking.join(", ")));
            }
        }
    }
    let is_mounted = |line: &&str| MOUNTS.iter().any(|(mount, _)| line.split(' ').next() == Some(*mount));
    let committed: Vec<&str> = include_str!("skips.txt").lines().filter(is_mounted).collect();
    assert!(
        skips == committed,
        "tests/conformance/skips.txt is not what is skipped now. If that is meant, commit this:\n\n{}\n",
        skips.join("\n")
    );
}
