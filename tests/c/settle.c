/* Proves: a delivery is settled once; a second time, an unknown token, and one whose subscription
 * is gone are told apart locally; any thread may settle, at any time, one by one or many at once;
 * leases end and are renewed.
 * Rows of docs/bad-input.md: B37. */
#include <stdint.h>

#include "check.h"

static hmq_hub *hub;
static hmq_inbox *inbox;

static hmq_sub *subscribe(const char *options)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe_inbox(hub, options, HMQ_NTS, inbox, 1, -1, &sub, &err), HMQ_OK));
    return sub;
}

static hmq_event next(void)
{
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    REQUIRE(STATUS(hmq_inbox_poll(inbox, &event, 1, DEADLINE_MS, &count), HMQ_OK));
    return event;
}

static hmq_token next_token(void)
{
    hmq_event event = next();
    CHECK_NUMBER(event.kind, HMQ_EV_MESSAGE);
    CHECK(event.token > 0 && event.token < ((uint64_t)1 << 53));
    CHECK_NUMBER(event.token, hmq_msg_token(event.msg));
    hmq_token token = event.token;
    hmq_events_clear(&event, 1);
    return token;
}

static hmq_status ack(hmq_token token)
{
    return hmq_settle(token, HMQ_ACK, 0, NULL, 0, &err);
}

static void once(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.once\",\"retry\":{\"delay_ms\":0}}");
    hmq_token token;

    publish(hub, "tasks.once", "a");
    token = next_token();
    STATUS(ack(token), HMQ_OK);
    FAILS(ack(token), HMQ_E_SETTLED, "already");
    STATUS(hmq_settle(token, HMQ_RETRY, 0, NULL, 0, &err), HMQ_E_SETTLED);
    STATUS(hmq_settle(token, HMQ_REJECT, 0, "late", HMQ_NTS, &err), HMQ_E_SETTLED);
    STATUS(hmq_extend(token, 1000, &err), HMQ_E_SETTLED);

    publish(hub, "tasks.once", "b");
    token = next_token();
    STATUS(hmq_settle(token, HMQ_RETRY, 0, "not yet", HMQ_NTS, &err), HMQ_OK);
    STATUS(ack(token), HMQ_E_SETTLED);
    token = next_token();
    STATUS(ack(token), HMQ_OK);
    STATUS(hmq_sub_close(sub, -1, &err), HMQ_OK);
    hmq_sub_free(sub);
}

static void unknown(void)
{
    static const hmq_token tokens[] = {UINT64_MAX, (uint64_t)1 << 53, ((uint64_t)1 << 53) - 1,
                                       (uint64_t)400000 << 34};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        STATUS(ack(tokens[i]), HMQ_E_STALE);
        STATUS(hmq_extend(tokens[i], 1000, &err), HMQ_E_STALE);
    }
    /* What a replay hands over has no token. */
    STATUS(ack(0), HMQ_E_ARG);
    STATUS(hmq_extend(0, 1000, &err), HMQ_E_ARG);
}

static void end_of(hmq_sub *sub)
{
    hmq_event event;
    STATUS(hmq_sub_close(sub, -1, &err), HMQ_OK);
    event = next();
    CHECK_NUMBER(event.kind, HMQ_EV_END);
    hmq_events_clear(&event, 1);
    hmq_sub_free(sub);
}

static void after_close(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.close\"}");
    hmq_token token;
    hmq_status status;

    publish(hub, "tasks.close", "a");
    token = next_token();
    end_of(sub);
    status = ack(token);
    CHECK(status == HMQ_E_CLOSED || status == HMQ_E_STALE);
    hmq_error_free(err);

    /* It went back: the next subscriber gets it, with a token of its own. */
    sub = subscribe("{\"topic\":\"tasks.close\"}");
    CHECK(next_token() != token);
    end_of(sub);
    status = ack(token);
    CHECK(status == HMQ_E_CLOSED || status == HMQ_E_STALE);
    hmq_error_free(err);
}

static void *ack_elsewhere(void *token)
{
    STATUS(ack(*(hmq_token *)token), HMQ_OK);
    return NULL;
}

static void other_thread(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.thread\"}");
    hmq_token token;

    publish(hub, "tasks.thread", "a");
    token = next_token();
    run_threads(1, ack_elsewhere, &token);
    STATUS(ack(token), HMQ_E_SETTLED);
    hmq_sub_free(sub);
}

enum { MANY = 500 };

static void many(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.many\",\"prefetch\":1000,\"retry\":{\"delay_ms\":0}}");
    hmq_settlement decisions[MANY + 3];
    hmq_settlement settlement = HMQ_SETTLEMENT_INIT;
    char *text = NULL;

    for (int i = 0; i < MANY; i++)
        publish(hub, "tasks.many", "x");
    for (int i = 0; i < MANY; i++) {
        decisions[i] = settlement;
        decisions[i].token = next_token();
        decisions[i].verdict = i % 10 == 0 ? HMQ_REJECT : HMQ_ACK;
        decisions[i].reason = i % 10 == 0 ? "broken" : NULL;
        decisions[i].reason_len = i % 10 == 0 ? HMQ_NTS : 0;
        decisions[i].result = 77;
    }
    decisions[MANY] = decisions[0];
    decisions[MANY + 1] = settlement;
    decisions[MANY + 1].token = decisions[1].token;
    decisions[MANY + 1].verdict = 7;
    decisions[MANY + 2] = settlement;
    decisions[MANY + 2].token = 12345;
    decisions[MANY + 2].verdict = HMQ_ACK;
    STATUS(hmq_settle_many(decisions, MANY + 3, &err), HMQ_PARTIAL);
    for (int i = 0; i < MANY; i++)
        CHECK_NUMBER(decisions[i].result, HMQ_OK);
    CHECK_NUMBER(decisions[MANY].result, HMQ_E_SETTLED);
    CHECK_NUMBER(decisions[MANY + 1].result, HMQ_E_ARG);
    CHECK_NUMBER(decisions[MANY + 2].result, HMQ_E_STALE);
    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.many\",\"limit\":1000}", HMQ_NTS, -1, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"count\":50");
    CHECK_TEXT(text, "broken");
    hmq_free(text);
    STATUS(hmq_sub_progress(sub, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"unsettled\":0");
    hmq_free(text);
    hmq_sub_free(sub);
}

static void leases(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.lease\",\"lease_ms\":1000,\"retry\":{\"delay_ms\":0}}");
    hmq_token token;
    hmq_event event;

    publish(hub, "tasks.lease", "a");
    token = next_token();
    STATUS(hmq_clock_advance(hub, 900, &err), HMQ_OK);
    STATUS(hmq_extend(token, 1000, &err), HMQ_OK);
    STATUS(hmq_clock_advance(hub, 900, &err), HMQ_OK);
    STATUS(hmq_extend(token, 1000, &err), HMQ_OK);
    STATUS(hmq_clock_advance(hub, 1100, &err), HMQ_OK);
    event = next();
    CHECK_NUMBER(event.kind, HMQ_EV_MESSAGE);
    CHECK_NUMBER(event.attempt, 2);
    CHECK(event.flags & HMQ_MSG_REDELIVERED);
    CHECK_NUMBER(hmq_msg_flags(event.msg), event.flags);
    STATUS(ack(token), HMQ_E_STALE);
    STATUS(ack(event.token), HMQ_OK);
    hmq_events_clear(&event, 1);
    hmq_sub_free(sub);
}

static void of_another_hub(void)
{
    hmq_hub *other = open_hub("{}");
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.hubs\"}");
    hmq_token token;

    /* A token knows its hub: that others come and go does not matter to it. */
    publish(hub, "tasks.hubs", "a");
    token = next_token();
    close_hub(other);
    STATUS(ack(token), HMQ_OK);
    hmq_sub_free(sub);
}

static void end_of_the_hub(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.last\"}");
    hmq_token token;
    hmq_status status;

    publish(hub, "tasks.last", "a");
    token = next_token();
    STATUS(hmq_hub_close(hub, -1, &err), HMQ_OK);
    status = ack(token);
    CHECK(status == HMQ_E_CLOSED || status == HMQ_E_STALE);
    hmq_error_free(err);
    hmq_hub_free(hub);
    status = ack(token);
    CHECK(status == HMQ_E_CLOSED || status == HMQ_E_STALE);
    hmq_error_free(err);
    hmq_sub_free(sub);
}

int main(void)
{
    hub = open_hub("{\"clock\":\"virtual\"}");
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    once();
    unknown();
    {
        hmq_event event = next();
        CHECK_NUMBER(event.kind, HMQ_EV_END);
        hmq_events_clear(&event, 1);
    }
    after_close();
    many();
    hmq_inbox_free(inbox);
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    leases();
    hmq_inbox_free(inbox);
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    other_thread();
    hmq_inbox_free(inbox);
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    of_another_hub();
    hmq_inbox_free(inbox);
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    end_of_the_hub();
    hmq_inbox_free(inbox);
    return result();
}
