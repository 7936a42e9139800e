// Command etcd is the etcd server, built from its Go module: the module
// publishes the server as a library and this is its whole main.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
