// Search in pages that are opened from a disk, where browsers start no worker: its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.worker = this;
      this.loaded = new Promise((resolve) => this.frame.addEventListener("load", resolve));
      const answer = 'self.postMessage = (data) => frameElement.worker.dispatchEvent(new MessageEvent("message", { data }));';
      this.frame.srcdoc = `<script>${answer}</${"script"}><script src="${new URL(url, location.href)}"></${"script"}>`;
      document.body.append(this.frame);
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
