"""Two network namespaces, joined by a pair of virtual interfaces: MTU 1500, and every packet by itself, as on a real network.

In one the node and its clients are, in the other the agent and its service. Each may drop a share of what comes in (nftables).
It needs root, ip and nft."""

import os
import subprocess

NODE, AGENT = "10.79.0.1", "10.79.0.2"


def run(*words, **options):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, **options).stdout


class Network:
    def __init__(self):
        self.node, self.agent = (f"adit-{side}-{os.getpid()}" for side in ("node", "agent"))
        for space in (self.node, self.agent):
            run("ip", "netns", "add", space)

    def join(self, loss=0, alone=True):
        """`alone`: packets of 1,500 bytes are made as they are sent, as a network card without offloads has it. Otherwise the
        kernel passes them on in large pieces between the namespaces, as it may between two cards that have them."""
        run("ip", "-n", self.node, "link", "add", "near", "type", "veth", "peer", "name", "far")
        run("ip", "-n", self.node, "link", "set", "far", "netns", self.agent)
        for space, link, address in ((self.node, "near", NODE), (self.agent, "far", AGENT)):
            inside = ("ip", "-n", space)
            run(*inside, "address", "add", f"{address}/24", "dev", link)
            run(*inside, "link", "set", link, *(("gso_max_segs", 1) if alone else ()), "up")
            run(*inside, "link", "set", "lo", "up")
            if not loss:
                continue
            rules = "table inet loss {\n chain in {\n type filter hook input priority 0;\n iifname lo accept\n"
            rules += f" numgen random mod 1000 < {round(loss * 10)} drop\n }}\n}}\n"
            run("ip", "netns", "exec", space, "nft", "-f", "-", input=rules)

    def end(self):
        for space in (self.node, self.agent):
            run("ip", "netns", "delete", space)


def within(space, *words):
    return ["ip", "netns", "exec", space, *words]
