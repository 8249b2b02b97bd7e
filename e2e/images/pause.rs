//! What holds a pod's namespaces: does nothing until it is killed.

fn main() {
    loop {
        std::thread::park();
    }
}
