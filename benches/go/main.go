// Publishes with amqp091-go, as a peer of the server benchmarks.
//
//	amqp091-rounds amqp://user:password@host:port/
//
// Each line of its input is one round:
//
//	/EXCHANGE KEY MANDATORY BYTES WINDOW MILLISECONDS
//
// and is answered by how many were confirmed, in how many seconds, with how many microseconds of
// processor time and how many context switches of this process.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Above the largest window: a confirm that finds no room would stop the connection.
const room = 8192

// Messages between two looks at the clock.
const stride = 64

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: amqp091-rounds URI")
	}
	connection, err := amqp.Dial(os.Args[1])
	must(err)
	channel, err := connection.Channel()
	must(err)
	must(channel.Confirm(false))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, room))

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var exchange, key string
		var mandatory bool
		var bytes, window, millis int
		_, err := fmt.Sscan(lines.Text(), &exchange, &key, &mandatory, &bytes, &window, &millis)
		must(err)
		publishing := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: make([]byte, bytes)}

		before, started := usage(), time.Now()
		end := started.Add(time.Duration(millis) * time.Millisecond)
		count, open := 0, 0
		for time.Now().Before(end) {
			for i := 0; i < stride; i++ {
				if open == window {
					take(confirms)
					open--
				}
				must(channel.PublishWithContext(context.Background(), exchange[1:], key, mandatory, false, publishing))
				open++
				count++
			}
		}
		for ; open > 0; open-- {
			take(confirms)
		}
		seconds, after := time.Since(started).Seconds(), usage()
		fmt.Println(count, seconds, after.micros-before.micros, after.switches-before.switches)
	}
}

func take(confirms chan amqp.Confirmation) {
	if confirm, open := <-confirms; !open || !confirm.Ack {
		log.Fatal("not confirmed")
	}
}

type spent struct{ micros, switches int64 }

func usage() spent {
	var used syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	micros := func(time syscall.Timeval) int64 { return int64(time.Sec)*1_000_000 + int64(time.Usec) }
	return spent{micros(used.Utime) + micros(used.Stime), int64(used.Nvcsw) + int64(used.Nivcsw)}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
