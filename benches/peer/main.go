// The peer of the comparison: a custom collector of client_golang with the same series, behind promhttp. Built from
// Debian's packages:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o peer main.go
//
// The program listens on a free port of the loopback interface and prints the address.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type key struct {
	project, id, name string
	created, lastUsed float64
}

type collector struct {
	keys                                     []key
	info, created, lastUsed, age, idle, used *prometheus.Desc
}

const org = "32b6e34b3d91647abb20e7b8"

func newCollector(n int) *collector {
	name := func(s string) string { return "mongodbatlas_ai_model_api_key_" + s }
	labels := []string{"org_id", "project_id", "api_key_id"}
	desc := func(s string) *prometheus.Desc { return prometheus.NewDesc(name(s), "A number.", labels, nil) }
	c := &collector{
		info: prometheus.NewDesc(name("info"), "What is known.",
			append(append([]string{}, labels...), "name", "status", "cloud", "geography", "model_endpoint"), nil),
		created:  desc("created_timestamp_seconds"),
		lastUsed: desc("last_used_timestamp_seconds"),
		age:      desc("last_used_age_seconds"),
		idle:     desc("idle_seconds"),
		used:     desc("used"),
	}
	now := float64(time.Now().Unix())
	for i := 0; i < n; i++ {
		c.keys = append(c.keys, key{
			project:  fmt.Sprintf("%024x", i%40),
			id:       fmt.Sprintf("key%021d", i),
			name:     fmt.Sprintf("search-prod-%d", i),
			created:  now - float64(10000000+i) + 0.123456,
			lastUsed: now - float64(i) + 0.654321,
		})
	}
	return c
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	now := float64(time.Now().UnixMilli()) / 1000
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for i := range c.keys {
		k := &c.keys[i]
		send(c.info, 1, org, k.project, k.id, k.name, "ACTIVE", "ANY", "ANY", "ai.mongodb.com")
		send(c.created, k.created, org, k.project, k.id)
		send(c.lastUsed, k.lastUsed, org, k.project, k.id)
		send(c.age, now-k.lastUsed, org, k.project, k.id)
		send(c.idle, now-k.lastUsed, org, k.project, k.id)
		send(c.used, 1, org, k.project, k.id)
	}
}

func main() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(n))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	panic(http.Serve(listener, nil))
}
