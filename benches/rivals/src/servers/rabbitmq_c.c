/* rabbitmq-c as a program in C uses it: amqp_basic_publish in a loop, and confirms read when the
 * window is full. Confirms are followed by their tags, since a server may confirm out of order.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

/* Above the largest window; a power of two. */
#define RING 8192

struct rc_peer {
    amqp_connection_state_t connection;
    uint64_t next;      /* tag of the next publish */
    uint64_t low;       /* every tag below it is confirmed */
    uint64_t confirmed; /* how many are */
    uint8_t done[RING];
};

static double now_s(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

void rc_close(struct rc_peer *peer)
{
    if (peer)
        amqp_destroy_connection(peer->connection);
    free(peer);
}

struct rc_peer *rc_open(const char *host, int port, const char *vhost, int frame_max)
{
    struct rc_peer *peer = calloc(1, sizeof *peer);
    amqp_socket_t *socket;

    if (!peer)
        return NULL;
    peer->next = peer->low = 1;
    peer->connection = amqp_new_connection();
    socket = amqp_tcp_socket_new(peer->connection);
    if (!socket || amqp_socket_open(socket, host, port) != AMQP_STATUS_OK)
        goto failed;
    /* Without heartbeats: nobody would send them while the other side has its turn. */
    if (amqp_login(peer->connection, vhost, 0, frame_max, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type !=
        AMQP_RESPONSE_NORMAL)
        goto failed;
    if (!amqp_channel_open(peer->connection, 1) || !amqp_confirm_select(peer->connection, 1))
        goto failed;
    return peer;
failed:
    rc_close(peer);
    return NULL;
}

/* Reads one frame, and notes what it confirms. 0, or -1 for anything but an ack. */
static int take_confirm(struct rc_peer *peer)
{
    amqp_frame_t frame;
    amqp_basic_ack_t *ack;
    uint64_t tag;

    if (amqp_simple_wait_frame(peer->connection, &frame) != AMQP_STATUS_OK)
        return -1;
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
        return -1;
    ack = frame.payload.method.decoded;
    if (ack->multiple) {
        for (tag = peer->low; tag <= ack->delivery_tag; tag++) {
            peer->confirmed += !peer->done[tag % RING];
            peer->done[tag % RING] = 1;
        }
    } else {
        peer->confirmed += !peer->done[ack->delivery_tag % RING];
        peer->done[ack->delivery_tag % RING] = 1;
    }
    while (peer->low < peer->next && peer->done[peer->low % RING])
        peer->done[peer->low++ % RING] = 0;
    return 0;
}

/* Waits for one frame, and takes what else has been read. */
static int take_confirms(struct rc_peer *peer)
{
    do {
        if (take_confirm(peer) != 0)
            return -1;
    } while (amqp_frames_enqueued(peer->connection) || amqp_data_in_buffer(peer->connection));
    amqp_maybe_release_buffers(peer->connection);
    return 0;
}

/* Where messages go and what they are. */
struct rc_load {
    const char *exchange;
    const char *key;
    const void *body;
    size_t size;
    int32_t mandatory;
    /* With the properties that helixmq gives its messages: id, times, and of a task its priority. */
    int32_t dressed;
};

static amqp_table_entry_t number(const char *name, int64_t value)
{
    amqp_table_entry_t entry;

    entry.key = amqp_cstring_bytes(name);
    entry.value.kind = AMQP_FIELD_KIND_I64;
    entry.value.value.i64 = value;
    return entry;
}

static int publish(struct rc_peer *peer, const struct rc_load *load)
{
    amqp_basic_properties_t properties;
    amqp_table_entry_t time_us;
    amqp_bytes_t body;
    char id[33];

    memset(&properties, 0, sizeof properties);
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    if (load->dressed) {
        struct timespec time;

        clock_gettime(CLOCK_REALTIME, &time);
        snprintf(id, sizeof id, "%016llx%016llx", 0x1122334455667788ULL, (unsigned long long)peer->next);
        properties._flags |= AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_HEADERS_FLAG;
        properties.message_id = amqp_cstring_bytes(id);
        properties.timestamp = (uint64_t)time.tv_sec;
        time_us = number("hmq-time-us", (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000);
        properties.headers.entries = &time_us;
        properties.headers.num_entries = 1;
        if (load->mandatory) {
            properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
            properties.priority = 5;
        }
    }
    body.bytes = (void *)load->body;
    body.len = load->size;
    peer->next++;
    return amqp_basic_publish(peer->connection, 1, amqp_cstring_bytes(load->exchange), amqp_cstring_bytes(load->key),
                              load->mandatory, 0, &properties, body);
}

/* Publishes for so many seconds with the window kept full, then waits for the rest. Answers how
 * many were confirmed, or -1. */
int64_t rc_publish(struct rc_peer *peer, const struct rc_load *load, uint64_t window, double seconds)
{
    const double end = now_s() + seconds;
    const uint64_t before = peer->confirmed;

    do {
        for (int i = 0; i < 64; i++) {
            while (peer->next - 1 - peer->confirmed >= window || peer->next - peer->low >= RING)
                if (take_confirms(peer) != 0)
                    return -1;
            if (publish(peer, load) != AMQP_STATUS_OK)
                return -1;
        }
    } while (now_s() < end);
    while (peer->confirmed < peer->next - 1)
        if (take_confirms(peer) != 0)
            return -1;
    return (int64_t)(peer->confirmed - before);
}

/* One in flight: the time of each, in microseconds, into `micros`. Answers how many, or -1. */
int64_t rc_round_trips(struct rc_peer *peer, const struct rc_load *load, double seconds, double *micros, size_t max)
{
    double started = now_s();
    const double end = started + seconds;
    size_t count = 0;

    while (count < max && started < end) {
        double done;

        if (publish(peer, load) != AMQP_STATUS_OK)
            return -1;
        while (peer->confirmed < peer->next - 1)
            if (take_confirms(peer) != 0)
                return -1;
        done = now_s();
        micros[count++] = (done - started) * 1e6;
        started = done;
    }
    return (int64_t)count;
}
