// From a disk, browsers start no Worker: the search then runs in a hidden frame of the same page.
// Material's own search script looks for this name, `IFrameWorker`.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement('iframe');
    frame.hidden = true;
    frame.srcdoc = '<!doctype html>';
    this.inside = new Promise((loaded, failed) => {
      frame.addEventListener('load', () => {
        const inside = frame.contentWindow;
        inside.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', {data}));
        const script = frame.contentDocument.createElement('script');
        script.src = url;
        script.addEventListener('load', () => loaded(inside));
        script.addEventListener('error', failed);
        frame.contentDocument.head.append(script);
      });
    });
    document.body.append(frame);
  }

  postMessage(data) {
    this.inside.then((inside) => inside.dispatchEvent(new MessageEvent('message', {data})));
  }
};

if (location.protocol === 'file:') window.Worker = window.IFrameWorker;
